"""The one door between the loop and the tools: an action goes in, a future of an observation comes out."""

import collections
import concurrent.futures
import contextlib
import re
import threading
import time
from collections.abc import Callable

from arft_jax import protocol
from arft_jax.tools import clean
from arft_jax.tools.sandbox import PythonSandbox
from arft_jax.tools.search_index import Hit, SearchIndex
from arft_jax.trajectory import Image, Observation, Task, ToolStatus

# What the policy reads. Short: a small model reads them too.
TIP_CROP = "Write code that crops the box [x_min, y_min, x_max, y_max]."
TIP_NONE = "The image is fine. Answer directly."
TIP_FIX = "Write code that fixes these problems."
NOTHING_FOUND = "Nothing found. Try other words."
SWITCHED_OFF = "Tools are switched off. Answer now."
NOT_OFFERED = "This tool is not offered here."
# For logs only: the status says INFRA.
DEADLINE_PASSED = "tool fault: no result before the deadline"
CLOSED = "tool fault: the toolbox is closed"

_OFFERED = {"coding": (protocol.Problem, protocol.Code), "search": (protocol.Search,)}
_FRAME = re.compile(r"<\s*/?\s*information\b[^<>]*>?", re.IGNORECASE)


def tip(kinds: tuple[str, ...]) -> str:
    """What to do about the named problems.

    >>> tip(("none",))
    'The image is fine. Answer directly.'
    """
    if "crop" in kinds:
        return TIP_CROP
    return TIP_NONE if kinds == ("none",) else TIP_FIX


def format_hits(hits: list[Hit], max_result_chars: int) -> str:
    """Words search results for the policy, each cleaned and capped, the frame's own tags taken out.

    >>> format_hits([Hit("Ada", "Born in 1815.", 2.0)], 200)
    '<information> 1. Content: Ada: Born in 1815. </information>'
    """
    lines = []
    for number, hit in enumerate(hits, start=1):
        both = f"{hit.title}: {hit.text}" if hit.title else hit.text
        text = clean.clean_text(_FRAME.sub(" ", clean.clean_text(both, len(both) + 1)), max_result_chars)
        lines.append(f"{number}. Content: {' '.join(text.split())}")
    return f"<information> {' '.join(lines) if lines else NOTHING_FOUND} </information>"


class _Deadlines:
    """Resolves futures that nobody resolved in time; one thread, started with the first future."""

    def __init__(self, deadline_s: float):
        self._deadline_s = deadline_s
        self._waiting: collections.deque[tuple[float, concurrent.futures.Future]] = collections.deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    def add(self, future: concurrent.futures.Future) -> None:
        """Watches a future; deadlines are equally long, so the queue is in their order."""
        with self._changed:
            self._waiting.append((time.monotonic() + self._deadline_s, future))
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="tool-deadlines", daemon=True)
                self._thread.start()
            elif len(self._waiting) == 1:
                self._changed.notify()

    def _watch(self) -> None:
        with self._changed:
            while not self._closed:
                while self._waiting and self._waiting[0][1].done():
                    self._waiting.popleft()
                if not self._waiting:
                    self._changed.wait()
                    continue
                due, future = self._waiting[0]
                left_s = due - time.monotonic()
                if left_s > 0:
                    self._changed.wait(left_s)
                    continue
                self._waiting.popleft()
                _resolve(future, Observation(DEADLINE_PASSED, (), ToolStatus.INFRA, self._deadline_s))

    def close(self) -> None:
        """Resolves what is still open and ends the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            waiting = [future for _, future in self._waiting]
        for future in waiting:
            _resolve(future, Observation(CLOSED, (), ToolStatus.INFRA))
        if self._thread is not None:
            self._thread.join()


def _resolve(future: concurrent.futures.Future, observation: Observation) -> None:
    with contextlib.suppress(concurrent.futures.InvalidStateError):  # the other one was first
        future.set_result(observation)


def _resolved(text: str, status: ToolStatus) -> concurrent.futures.Future:
    future: concurrent.futures.Future = concurrent.futures.Future()
    future.set_result(Observation(text, (), status))
    return future


class Toolbox:
    """Serves the tool calls of many trajectories side by side; no call ever raises into the loop.

    It uses the sandbox and the index it is given and leaves closing them to their owner.

    Args:
      python: runs code; None refuses code.
      search: finds texts; None refuses searches.
      top_k: results of a search.
      n_threads: calls that are served at the same time; more than the sandbox's workers is no gain.
      enabled: False refuses every call, for the control experiment without tools.
      deadline_s: seconds from submission to a result, waiting included; after it the call counts as a
        fault of ours. It must leave room for a queue of calls that all reach the sandbox's time limit.
      max_result_chars: cap on each search result.

    Raises:
      ValueError: for a number below its minimum.
    """

    def __init__(
        self,
        python: PythonSandbox | None,
        search: SearchIndex | None,
        top_k: int = 4,
        n_threads: int = 4,
        enabled: bool = True,
        deadline_s: float = 120.0,
        max_result_chars: int = 1000,
    ):
        for name, value in (("top_k", top_k), ("n_threads", n_threads), ("max_result_chars", max_result_chars)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1: got {value}")
        if not deadline_s > 0:
            raise ValueError(f"deadline_s must be above 0: got {deadline_s}")
        self._python = python
        self._search = search
        self._top_k = top_k
        self._enabled = enabled
        self._max_result_chars = max_result_chars
        self._deadlines = _Deadlines(deadline_s)
        self._threads = concurrent.futures.ThreadPoolExecutor(n_threads, thread_name_prefix="tool")

    def submit(self, task: Task, action: protocol.Action, image: Image) -> "concurrent.futures.Future[Observation]":
        """Starts a call.

        Args:
          task: whose kind says which tools are offered, and whose corpus is searched.
          action: what the turn asks for.
          image: the trajectory's current image, for code.

        Returns:
          A future that always resolves to an observation. Tips and refusals are resolved at once.

        Raises:
          ValueError: for an answer or a malformed turn, which call no tool, or a task of unknown kind.
        """
        if not isinstance(action, (protocol.Problem, protocol.Code, protocol.Search)):
            raise ValueError(f"action must be a Problem, Code or Search: got {type(action).__name__}")
        if task.kind not in _OFFERED:
            raise ValueError(f"task.kind must be one of {sorted(_OFFERED)}: got {task.kind!r} (task {task.id})")
        if not self._enabled:
            return _resolved(SWITCHED_OFF, ToolStatus.REFUSED)
        if not isinstance(action, _OFFERED[task.kind]):
            return _resolved(NOT_OFFERED, ToolStatus.REFUSED)
        match action:
            case protocol.Problem(kinds):
                return _resolved(tip(kinds), ToolStatus.OK)
            case protocol.Code(source) if self._python is not None:
                python = self._python
                return self._start(lambda: python.run(source, image))
            case protocol.Search(query) if self._search is not None:
                index = self._search
                return self._start(lambda: self._look_up(index, query, task.corpus))
        return _resolved(NOT_OFFERED, ToolStatus.REFUSED)

    def _look_up(self, index: SearchIndex, query: str, corpus: str) -> Observation:
        started = time.monotonic()
        text = format_hits(index.search(query, self._top_k, corpus), self._max_result_chars)
        return Observation(text, (), ToolStatus.OK, time.monotonic() - started)

    def _start(self, work: Callable[[], Observation]) -> concurrent.futures.Future:
        future: concurrent.futures.Future = concurrent.futures.Future()

        def serve() -> None:
            if future.done():  # past its deadline in the queue: nobody waits for it
                return
            started = time.monotonic()
            try:
                observation = work()
            except Exception as error:
                text = f"tool fault: {type(error).__name__}: {error}"
                observation = Observation(text, (), ToolStatus.INFRA, time.monotonic() - started)
            _resolve(future, observation)

        self._deadlines.add(future)
        try:
            self._threads.submit(serve)
        except RuntimeError:  # closed
            _resolve(future, Observation(CLOSED, (), ToolStatus.INFRA))
        return future

    def close(self) -> None:
        """Resolves what is open as INFRA and ends the threads; safe to repeat."""
        self._deadlines.close()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> "Toolbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
