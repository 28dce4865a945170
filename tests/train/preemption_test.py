"""Being asked to stop."""

import os
import signal
import threading

import pytest

from arft_jax.train.preemption import Stopped, StopRequest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_sets_a_flag_and_nothing_else(number, capsys):
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested and stop.number == number
    assert signal.getsignal(number) is before
    assert capsys.readouterr().out == "asked to stop: finishing this step and saving\n"


def test_what_comes_before_the_end_is_told_in_the_words_of_the_caller(capsys):
    with StopRequest("writing the table"):
        os.kill(os.getpid(), signal.SIGTERM)
    assert capsys.readouterr().out == "asked to stop: writing the table\n"


def test_a_second_interrupt_ends_at_once_but_a_second_term_does_not():
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_handlers_come_back_after_an_error():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RuntimeError):
        with StopRequest():
            raise RuntimeError
    assert signal.getsignal(signal.SIGTERM) is before


def test_outside_the_main_thread_signals_are_left_alone():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def enter():
        with StopRequest() as stop:
            seen.append((stop.requested, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


def test_a_stopped_run_has_the_status_that_a_shell_gives_a_signal():
    stopped = Stopped("stopped by a signal", signal.SIGTERM)
    assert isinstance(stopped, SystemExit) and (str(stopped), stopped.code) == ("stopped by a signal", 143)
