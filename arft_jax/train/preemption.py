"""Noticing that the process is asked to end, so that the step in hand can be finished and saved."""

import signal

from arft_jax.io import terminal


class Stopped(SystemExit):
    """A signal ended the run, which saved what it had; the text says where, ``code`` is the exit status.

    Args:
      message: for people.
      number: of the signal; the status is 128 plus it, as a shell reports a process that a signal ended.
    """

    def __init__(self, message: str, number: int = signal.SIGTERM):
        super().__init__(message)
        self.code = 128 + number


class StopRequest:
    """While entered, the first SIGTERM or SIGINT sets ``requested``; a second SIGINT interrupts at once.

    Args:
      then: what is done before the process ends, for people.
    """

    def __init__(self, then: str = "finishing this step and saving"):
        self.requested, self._then = False, then
        self.number = signal.SIGTERM  # of the signal; where another process got it, what a scheduler sends
        self._before: dict = {}

    def _on_signal(self, number, frame):
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested, self.number = True, number
        terminal.say(f"asked to stop: {self._then}")

    def __enter__(self) -> "StopRequest":
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._on_signal)
        except ValueError:  # not the main thread: signals are somebody else's
            pass
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
