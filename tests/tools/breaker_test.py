"""The circuit breaker, outcome by outcome."""

import pytest

from arft_jax.tools.breaker import Breaker, State


def opened():
    breaker = Breaker(window=4, n_probes=2)
    assert [breaker.record(False) for _ in range(2)] == [False, True]
    return breaker


def test_it_opens_when_half_of_the_last_calls_failed():
    breaker = Breaker(window=20)
    for _ in range(100):
        assert not breaker.record(True)
    # of the last 20: 9 bad and 11 good, and so on for ever
    for _ in range(5):
        assert not any([breaker.record(False) for _ in range(9)] + [breaker.record(True) for _ in range(11)])
    assert breaker.allows and breaker.state is State.CLOSED
    assert [breaker.record(False) for _ in range(10)] == [False] * 9 + [True]
    assert not breaker.allows and breaker.state is State.OPEN and breaker.n_opened == 1


def test_ten_failures_open_it_however_few_the_calls_were():
    breaker = Breaker()
    assert [breaker.record(False) for _ in range(10)] == [False] * 9 + [True]


def test_late_outcomes_tell_an_open_breaker_nothing():
    breaker = opened()
    assert not any(breaker.record(good) for good in (True, False) * 10)
    assert breaker.state is State.OPEN and breaker.n_opened == 1


def test_it_closes_after_good_probes_in_a_row_and_forgets_the_outage():
    breaker = opened()
    breaker.begin_probes()
    assert breaker.state is State.HALF_OPEN and not breaker.allows
    assert [breaker.probe(True), breaker.probe(True)] == [State.HALF_OPEN, State.CLOSED]
    assert breaker.allows and not breaker.record(False)


def test_a_bad_probe_opens_it_again_and_the_count_starts_anew():
    breaker = opened()
    breaker.begin_probes()
    assert [breaker.probe(True), breaker.probe(False)] == [State.HALF_OPEN, State.OPEN]
    breaker.begin_probes()
    assert [breaker.probe(True), breaker.probe(True)] == [State.HALF_OPEN, State.CLOSED]


def test_numbers_below_their_minimum_are_refused():
    with pytest.raises(ValueError, match="window must be at least 2 and n_probes 1: got 1 and 0"):
        Breaker(1, 0)
