"""Counters of a server in Prometheus's text format."""

import prometheus_client

from arft_jax.rollout.service import Service

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """What ``/metrics`` tells.

    Args:
      service: whose slots and tokens are counted.
    """

    def __init__(self, service: Service):
        self._registry = registry = prometheus_client.CollectorRegistry()
        self.requests = prometheus_client.Counter(
            "arft_requests", "Requests by HTTP status.", ["status"], registry=registry
        )
        self.seconds = prometheus_client.Histogram(
            "arft_request_seconds", "From a request's body to its whole reply.", buckets=_SECONDS, registry=registry
        )
        self.first_seconds = prometheus_client.Histogram(
            "arft_first_token_seconds", "From a request's body to its first token.", buckets=_SECONDS, registry=registry
        )
        gauges = {
            "arft_requests_waiting": ("Requests that wait for a slot.", lambda: service.n_waiting),
            "arft_slots_busy": ("Slots in use.", lambda: service.n_busy),
            "arft_slots": ("Slots.", lambda: service.n_slots),
            "arft_sampled_tokens": ("Tokens sampled in requests that ended.", lambda: service.counts.n_sampled),
            "arft_requests_left": ("Requests whose client went away.", lambda: service.counts.n_left),
        }
        for name, (told, value) in gauges.items():
            prometheus_client.Gauge(name, told, registry=registry).set_function(value)

    def text(self) -> bytes:
        """The text format."""
        return prometheus_client.generate_latest(self._registry)
