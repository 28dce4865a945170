"""One tool call's right to go on: how long it may take, and the switch that ends it from another thread."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator


class Fault(Exception):
    """An infrastructure failure: ours or a service's, never the policy's.

    Args:
      text: for logs; a secret must not stand in it.
      retry: whether another try may help.
      after_s: seconds that the service asked to be left alone.
    """

    def __init__(self, text: str, retry: bool = True, after_s: float = 0.0):
        super().__init__(text)
        self.retry, self.after_s = retry, after_s


class Cancelled(Exception):
    """Nobody waits for this call any more."""


class Call:
    """A deadline and a cancellation, handed to whatever serves the call.

    Work that blocks does so for :attr:`left_s` at most, and inside :meth:`ended_by` with what unblocks it at once:
    then no thread outlives its call.

    Args:
      deadline_s: seconds from now.
    """

    def __init__(self, deadline_s: float):
        self._due = self._try_due = time.monotonic() + deadline_s
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._stops: list[Callable[[], None]] = []

    @property
    def left_s(self) -> float:
        """Seconds left of this try and of the call; 0 or less means none."""
        return min(self._due, self._try_due) - time.monotonic()

    @property
    def overdue(self) -> bool:
        """Whether the call's own deadline has passed."""
        return self._due <= time.monotonic()

    @property
    def cancelled(self) -> bool:
        return self._ended.is_set()

    def start_try(self, try_s: float) -> None:
        """Allows the next try so many seconds, and no more than the call has left."""
        self._try_due = time.monotonic() + try_s

    def end_try(self) -> None:
        """From here on only the call's own deadline counts."""
        self._try_due = self._due

    def check(self) -> None:
        """Raises Cancelled where the call is given up, Fault where its time is over."""
        if self._ended.is_set():
            raise Cancelled
        if self.left_s <= 0:
            raise Fault("no reply in time")

    def wait(self, seconds: float) -> None:
        """Sleeps; raises Cancelled as soon as the call is given up."""
        if self._ended.wait(max(seconds, 0.0)):
            raise Cancelled

    def cancel(self) -> None:
        """Gives the call up: wakes who waits, unblocks who blocks. Safe to repeat, from any thread."""
        with self._lock:
            self._ended.set()
            for stop in self._stops:
                stop()

    @contextlib.contextmanager
    def ended_by(self, stop: Callable[[], None]) -> Iterator[None]:
        """Runs ``stop`` if the call is given up meanwhile.

        Args:
          stop: must return at once and never raise; it is not run any more once the block is left.

        Raises:
          Cancelled: the call is given up already.
        """
        with self._lock:
            if self._ended.is_set():
                raise Cancelled
            self._stops.append(stop)
        try:
            yield
        finally:
            with self._lock:
                self._stops.remove(stop)
