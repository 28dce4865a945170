"""Clients of a chat completions server, all asking at once: a process of its own, which imports no JAX.

    python -m arft_jax.bench.load URL N_CLIENTS SECONDS < BODIES      (a JSON list of bodies)

Prints one JSON object: requests by status, tokens sampled and seconds, latencies of whole replies in seconds.
"""

import http.client
import json
import sys
import threading
import time
import urllib.parse

from arft_jax.io import terminal


class _Client(threading.Thread):
    """Asks one body after the other over one connection until the time is over."""

    def __init__(self, url: str, bodies: list[bytes], first: int, end: float):
        super().__init__(daemon=True)
        self._parts, self._bodies, self._at, self._end = urllib.parse.urlsplit(url), bodies, first, end
        self.statuses: dict[str, int] = {}
        self.latencies: list[float] = []
        self.n_tokens = 0

    def run(self) -> None:
        """See Thread."""
        connection = None
        while time.monotonic() < self._end:
            if connection is None:
                connection = http.client.HTTPConnection(self._parts.hostname, self._parts.port, timeout=120)
            begin = time.monotonic()
            try:
                status, reply, wait_s = self._ask(connection)
            except (OSError, http.client.HTTPException) as error:
                status, reply, wait_s, connection = type(error).__name__, {}, 0.0, None
            self.statuses[status] = self.statuses.get(status, 0) + 1
            if status == "200":
                self.latencies.append(time.monotonic() - begin)
                self.n_tokens += reply["usage"]["completion_tokens"]
            time.sleep(wait_s)

    def _ask(self, connection: http.client.HTTPConnection) -> tuple[str, dict, float]:
        body = self._bodies[self._at % len(self._bodies)]
        self._at += 1
        connection.request("POST", f"{self._parts.path}/chat/completions", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        read = json.loads(response.read())
        return str(response.status), read, float(response.headers.get("retry-after", 0))


def main() -> None:
    """See the module."""
    url, n_clients, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    bodies = [json.dumps(body).encode() for body in json.load(sys.stdin)]
    begin = time.monotonic()
    clients = [_Client(url, bodies, 7 * number, begin + seconds) for number in range(n_clients)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    took = time.monotonic() - begin
    statuses: dict[str, int] = {}
    for client in clients:
        for status, n in client.statuses.items():
            statuses[status] = statuses.get(status, 0) + n
    latencies = sorted(latency for client in clients for latency in client.latencies)
    told = {
        "statuses": statuses,
        "seconds": took,
        "n_tokens": sum(client.n_tokens for client in clients),
        "latency_s": {f"p{share}": latencies[len(latencies) * share // 100] for share in (50, 90, 99) if latencies},
    }
    terminal.say(json.dumps(told))


if __name__ == "__main__":
    main()
