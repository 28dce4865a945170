"""A call's deadline and its end from another thread."""

import threading
import time

import pytest

from arft_jax.tools.call import Call, Cancelled, Fault


def test_a_try_ends_with_its_own_time_or_the_calls():
    call = Call(10.0)
    assert 9.5 < call.left_s <= 10
    call.start_try(2.0)
    assert 1.5 < call.left_s <= 2
    call.end_try()
    assert 9.5 < call.left_s <= 10
    call.start_try(50.0)
    assert call.left_s <= 10


def test_a_call_whose_time_is_over_is_a_fault():
    call = Call(10.0)
    call.check()
    call.start_try(-1.0)
    with pytest.raises(Fault, match="no reply in time"):
        call.check()
    assert not call.overdue and Call(0.0).overdue


def test_giving_up_wakes_who_sleeps_and_stops_who_blocks():
    call, blocked, woken = Call(60.0), threading.Event(), []

    def sleep():
        with pytest.raises(Cancelled):
            call.wait(60.0)
        woken.append("slept")

    def block():
        with call.ended_by(blocked.set):
            blocked.wait(60.0)
        woken.append("blocked")

    threads = [threading.Thread(target=target) for target in (sleep, block)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    started = time.monotonic()
    call.cancel()
    call.cancel()
    for thread in threads:
        thread.join(5)
    assert sorted(woken) == ["blocked", "slept"] and time.monotonic() - started < 2
    assert call.cancelled
    with pytest.raises(Cancelled):
        call.check()


def test_what_begins_after_the_end_does_not_begin():
    call = Call(60.0)
    call.cancel()
    with pytest.raises(Cancelled), call.ended_by(lambda: None):
        raise AssertionError("entered")


def test_what_has_ended_by_itself_is_not_stopped():
    call, stopped = Call(60.0), []
    with call.ended_by(lambda: stopped.append(1)):
        pass
    call.cancel()
    assert not stopped
