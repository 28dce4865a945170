"""Resolves futures that nobody resolved in time."""

import concurrent.futures
import contextlib
import heapq
import itertools
import threading
import time
import weakref

from arft_jax.trajectory import Observation, ToolStatus

# For logs only: the status says INFRA.
DEADLINE_PASSED = "tool fault: no result before the deadline"
CLOSED = "tool fault: the toolbox is closed"


def resolve(future: concurrent.futures.Future, observation: Observation) -> None:
    """Gives a future its result unless it has one, or was cancelled."""
    with contextlib.suppress(concurrent.futures.InvalidStateError):  # the other one was first
        future.set_result(observation)


class Deadlines:
    """Watches futures from one thread, started with the first of them.

    It does not keep them alive: results that nobody holds any more must not wait here for their deadline.
    """

    def __init__(self):
        self._heap: list[tuple[float, int, float, weakref.ref]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    def add(self, future: concurrent.futures.Future, deadline_s: float) -> bool:
        """Watches a future; False where it is too late, because this is closed."""
        with self._changed:
            if self._closed:
                return False
            entry = (time.monotonic() + deadline_s, next(self._numbers), deadline_s, weakref.ref(future))
            heapq.heappush(self._heap, entry)
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="tool-deadlines", daemon=True)
                self._thread.start()
            elif self._heap[0] is entry:
                self._changed.notify()
        return True

    def _watch(self) -> None:
        while True:
            with self._changed:
                future, deadline_s = self._next_overdue()
            if future is None:
                return
            # Not under the lock: what waits for this future may ask for another one.
            resolve(future, Observation(DEADLINE_PASSED, (), ToolStatus.INFRA, deadline_s))
            del future

    def _next_overdue(self) -> tuple[concurrent.futures.Future | None, float]:
        """Sleeps until a future is overdue; None once this is closed."""
        while not self._closed:
            if not self._heap:
                self._changed.wait()
                continue
            due, _, deadline_s, watched = self._heap[0]
            future = watched()
            if future is None or future.done():
                heapq.heappop(self._heap)
            elif due <= time.monotonic():
                heapq.heappop(self._heap)
                return future, deadline_s
            else:
                del future
                self._changed.wait(due - time.monotonic())
        return None, 0.0

    def close(self) -> None:
        """Resolves what is still open and ends the thread; safe to repeat."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            waiting, self._heap = [entry[3]() for entry in self._heap], []
        for future in waiting:
            if future is not None:
                resolve(future, Observation(CLOSED, (), ToolStatus.INFRA))
        if self._thread is not None:
            self._thread.join()
