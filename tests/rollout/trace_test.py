"""Seconds by cause, and the spans of slots."""

import time

import pytest

from arft_jax.rollout import trace
from arft_jax.rollout.trace import DECODE, EXTEND, IDLE, PAUSED, RolloutCosts, Timeline


@pytest.fixture
def clock(monkeypatch):
    now = iter(range(100))
    monkeypatch.setattr(trace.time, "perf_counter", lambda: float(next(now)))


def test_a_timeline_holds_what_lay_between_marks(clock):
    timeline = Timeline()
    timeline.mark(3, EXTEND)  # second 0
    timeline.mark(3, DECODE)
    timeline.mark(5, EXTEND)
    timeline.mark(3, PAUSED)
    timeline.mark(3, IDLE)  # idle is what no span covers
    timeline.mark(3, EXTEND)
    timeline.end()  # slot 3 at second 6, slot 5 at second 7
    assert timeline.spans == [
        (3, EXTEND, 0, 1), (3, DECODE, 1, 3), (3, PAUSED, 3, 4), (5, EXTEND, 2, 6), (3, EXTEND, 5, 7),
    ]  # fmt: skip
    assert timeline.n_dropped == 0


def test_a_timeline_is_bounded(clock):
    timeline = Timeline(max_spans=2)
    for _ in range(5):
        timeline.mark(0, DECODE)
    timeline.end()
    assert len(timeline.spans) == 2 and timeline.n_dropped == 3


def test_the_host_pays_for_what_it_does_not_wait_for():
    costs = RolloutCosts()
    with costs.waiting("device_wait_s"):
        time.sleep(0.02)
    with pytest.raises(KeyError), costs.waiting("tool_wait_s"):
        time.sleep(0.01)
        raise KeyError
    assert costs.device_wait_s >= 0.02 and costs.tool_wait_s >= 0.01
    costs.total_s = 1.0
    assert costs.host_s == 1.0 - costs.device_wait_s - costs.tool_wait_s
