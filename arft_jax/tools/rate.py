"""How often a tool may be called: calls are spaced evenly."""

import threading
import time

from arft_jax.tools.call import Call, Fault


class Rate:
    """Gives out turns, ``calls_per_s`` a second; after a pause a second's worth may be taken at once.

    Example, 2 a second, all asked for at 0 s: turns at 0, 0, 0.5, 1.0 s.

    Args:
      calls_per_s: 0 means as often as one likes.
    """

    def __init__(self, calls_per_s: float):
        self._gap_s = 1.0 / calls_per_s if calls_per_s > 0 else 0.0
        self._saved_s = max(1.0 - self._gap_s, 0.0)  # turns not taken are kept for a second
        self._next, self._lock = -float("inf"), threading.Lock()

    def wait(self, call: Call) -> None:
        """Sleeps until it is this call's turn.

        Raises:
          Fault: that would be after its deadline; the turn is not taken.
          Cancelled: the call was given up.
        """
        if not self._gap_s:
            return
        with self._lock:
            now = time.monotonic()
            turn = max(self._next, now - self._saved_s)
            if turn - now >= call.left_s:
                raise Fault("no turn before the deadline: called too often", retry=False)
            self._next = turn + self._gap_s
        if turn > now:
            call.wait(turn - now)
