"""A circuit breaker without a clock: it counts outcomes, its owner decides when to probe.

M. Nygard, Release It! (2007), "Circuit Breaker". One departure: the probes of the half-open state are not calls that
somebody waits for, so no trajectory is held up to find out whether a dead service lives again; and there
must be several good ones in a row, or a service that answers every second call would be let in every second time.
"""

import collections
import enum
import threading


class State(enum.Enum):
    """Values are the metric's."""

    CLOSED = 0.0  # calls go out
    HALF_OPEN = 0.5  # probes go out
    OPEN = 1.0  # nothing goes out


class Breaker:
    """Opens when half of the last calls failed; safe for threads.

    Example, window 4: good, bad, good, bad -> open. Then ``begin_probes()`` -> half open; ``n_probes`` times
    ``probe(True)`` -> closed; one ``probe(False)`` -> open again.

    Args:
      window: calls that are looked back upon; ``window // 2`` failures among them, however few the calls were, open.
      n_probes: good probes in a row that close it.

    Raises:
      ValueError: for a number below its minimum.
    """

    def __init__(self, window: int = 20, n_probes: int = 5):
        if window < 2 or n_probes < 1:
            raise ValueError(f"window must be at least 2 and n_probes 1: got {window} and {n_probes}")
        self._outcomes: collections.deque[bool] = collections.deque(maxlen=window)
        self._max_failures, self._n_probes, self._n_good = window // 2, n_probes, 0
        self._state, self._lock = State.CLOSED, threading.Lock()
        self.n_opened = 0

    @property
    def state(self) -> State:
        return self._state

    @property
    def allows(self) -> bool:
        """Whether a call may go out."""
        return self._state is State.CLOSED

    def record(self, good: bool) -> bool:
        """Counts a call's outcome; what comes in late, once the breaker is open, tells nothing new.

        Returns:
          Whether this outcome opened it.
        """
        with self._lock:
            if self._state is not State.CLOSED:
                return False
            self._outcomes.append(good)
            if self._outcomes.count(False) < self._max_failures:
                return False
            self._state, self.n_opened = State.OPEN, self.n_opened + 1
            return True

    def begin_probes(self) -> None:
        """From open to half open."""
        with self._lock:
            self._state, self._n_good = State.HALF_OPEN, 0

    def probe(self, good: bool) -> State:
        """Counts a probe's outcome; returns the state that it leads to."""
        with self._lock:
            self._n_good += good
            if not good:
                self._state = State.OPEN
            elif self._n_good >= self._n_probes:
                self._state = State.CLOSED
                self._outcomes.clear()
            return self._state
