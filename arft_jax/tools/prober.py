"""Finds out when a back-end is well again: probes that no trajectory waits for."""

import threading
from collections.abc import Callable

from arft_jax.tools.breaker import Breaker, State
from arft_jax.tools.call import Call

Probe = Callable[[Call], bool]


class Prober:
    """Closes an open breaker after good probes in a row; one thread, only while the breaker is open.

    Args:
      name: of the thread.
      breaker: which it closes.
      open_s: seconds between the opening, or a bad probe, and the next probe.
      try_s: seconds of one probe.
    """

    def __init__(self, name: str, breaker: Breaker, open_s: float, try_s: float):
        self._name, self._breaker, self._open_s, self._try_s = name, breaker, open_s, try_s
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._probe: Probe | None = None
        self._call: Call | None = None
        self._thread: threading.Thread | None = None

    def use(self, probe: Probe) -> None:
        """Probes with this from now on: the newest call refused. One call that fails for its own sake,
        asked again and again, would keep the breaker open."""
        self._probe = probe

    def start(self, probe: Probe) -> None:
        """Begins to probe; the breaker has just opened."""
        with self._lock:
            if self._closed.is_set():
                return
            self._probe = probe
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while not self._closed.wait(self._open_s):
            self._breaker.begin_probes()
            state = State.HALF_OPEN
            while state is State.HALF_OPEN:
                state = self._breaker.probe(self._ask())
            if state is State.CLOSED:
                return

    def _ask(self) -> bool:
        with self._lock:
            if self._closed.is_set():
                return False
            call = self._call = Call(self._try_s)
        return self._probe(call)

    def close(self) -> None:
        """Ends the probe that runs, and the thread; safe to repeat."""
        with self._lock:
            self._closed.set()
            call, thread = self._call, self._thread
        if call is not None:
            call.cancel()
        if thread is not None:
            thread.join()
