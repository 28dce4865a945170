"""When requests may be sent, on a clock that moves only while they wait."""

import asyncio

import pytest

from arft_jax.remote.pace import Pace


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    async def sleep(self, seconds):
        self.now += seconds


def turns(pace, clock, n, tokens=None):
    """Times of the next turns, each over at once."""

    async def play():
        times = []
        for _ in range(n):
            guess = await pace.turn()
            times.append(clock.now)
            pace.took(guess, tokens)
        return times

    return asyncio.run(play())


@pytest.fixture
def clock():
    return Clock()


def test_requests_are_spaced_evenly(clock):
    pace = Pace(120, 0, clock, clock.sleep)
    assert turns(pace, clock, 4) == [0.0, 0.5, 1.0, 1.5]
    assert turns(Pace(0, 0, clock, clock.sleep), clock, 3) == [1.5, 1.5, 1.5]


def test_tokens_of_a_minute_are_kept_once_their_number_is_known(clock):
    # 600 a minute are 10 a second: 50 tokens take 5 s
    assert turns(Pace(0, 600, clock, clock.sleep), clock, 4, tokens=50) == [0.0, 5.0, 10.0, 15.0]


def test_what_is_not_known_is_guessed_from_the_others(clock):
    pace = Pace(0, 600, clock, clock.sleep)
    turns(pace, clock, 1, tokens=50)
    assert turns(pace, clock, 3) == [5.0, 10.0, 15.0]


def test_a_pause_that_the_server_asks_for_holds_all(clock):
    pace = Pace(0, 0, clock, clock.sleep)
    pace.pause(3.0)
    pace.pause(1.0)
    assert turns(pace, clock, 2) == [3.0, 3.0]
