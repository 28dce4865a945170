"""Noticing that the process is asked to end, so that the step in hand can be finished and saved."""

import signal


class StopRequest:
    """While entered, the first SIGTERM or SIGINT sets ``requested``; a second SIGINT interrupts at once."""

    def __init__(self):
        self.requested = False
        self._before: dict = {}

    def _on_signal(self, number, frame):
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
        print("asked to stop: finishing this step and saving", flush=True)

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
