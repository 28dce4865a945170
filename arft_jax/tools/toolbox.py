"""The one door between the loop and the tools: an action goes in, a future of an observation comes out."""

import collections
import concurrent.futures
import functools
import threading
from collections.abc import Callable, Mapping, Sequence

from arft_jax import protocol
from arft_jax.tools.bank import name_images
from arft_jax.tools.call import Call, Cancelled
from arft_jax.tools.image_index import ImageIndex
from arft_jax.tools.image_search import find_images, is_image_query
from arft_jax.tools.remote_search import RemoteSearch, check_corpus
from arft_jax.tools.result_text import format_hits
from arft_jax.tools.runner import CallPolicy, ToolRunner
from arft_jax.tools.sandbox import CodeSession, PythonSandbox
from arft_jax.tools.search_backend import Hit, SearchBackend
from arft_jax.trajectory import Image, Observation, Task, ToolStatus

# What the policy reads. Short: a small model reads them too.
TIP_CROP = "Write code that crops the box [x_min, y_min, x_max, y_max]."
TIP_NONE = "The image is fine. Answer directly."
TIP_FIX = "Write code that fixes these problems."
SWITCHED_OFF = "Tools are switched off. Answer now."
NOT_OFFERED = "This tool is not offered here."
GIVEN_UP = "given up"

_OFFERED = {
    "coding": (protocol.Problem, protocol.Code),
    "search": (protocol.Search,),
    "general": (protocol.Code, protocol.Search),
}
_TOOL_NAMES = {protocol.Problem: "diagnose", protocol.Code: "python", protocol.Search: "search"}


def tip(kinds: tuple[str, ...]) -> str:
    """What to do about the named problems.

    >>> tip(("none",))
    'The image is fine. Answer directly.'
    """
    if "crop" in kinds:
        return TIP_CROP
    return TIP_NONE if kinds == ("none",) else TIP_FIX


def _resolved(text: str, status: ToolStatus) -> concurrent.futures.Future:
    future: concurrent.futures.Future = concurrent.futures.Future()
    future.set_result(Observation(text, (), status))
    return future


def _run_code(run: Callable[[Call], Observation], call: Call) -> Observation:
    try:
        return run(call)
    except Cancelled:
        # Nobody waits for it. Its time went by in the policy's code or in the queue before it: no sign of a sandbox
        # that fails, which a breaker would take an overdue call for.
        return Observation(GIVEN_UP, (), ToolStatus.REFUSED)


class Toolbox:
    """Serves the tool calls of many trajectories side by side; no call ever raises into the loop.

    It uses the sandbox and the search it is given and leaves closing them to their owner.

    Args:
      python: runs code; None refuses code.
      search: finds texts, here or over the network; None, without pictures either, refuses searches.
      top_k: results of a search.
      n_threads: calls of each tool that are served at the same time; more than the sandbox's workers is no gain.
      enabled: False refuses every call, for the control experiment without tools.
      deadline_s: seconds from submission to a result, waiting included; after it the call counts as a
        infrastructure failure. It must leave room for a queue of calls that all reach the sandbox's time limit.
      max_result_chars: cap on each search result.
      terms: how a tool (``python``, ``search``, ``image_search``) is called, where it is not by n_threads and
        deadline_s alone.
      trajectory_deadline_s: seconds that all calls of one trajectory may take together.
      pictures: a search for the name of an image finds those like it; other words, where ``search`` is None, those
        with such captions. None: such a search is one for texts.
      image_top_k: pictures shown of a search.
      sessions: whether a trajectory's code finds the variables of its earlier code (sandbox/session.py).

    Raises:
      ValueError: for a number below its minimum.
    """

    def __init__(
        self,
        python: PythonSandbox | None,
        search: SearchBackend | None,
        top_k: int = 4,
        n_threads: int = 4,
        enabled: bool = True,
        deadline_s: float = 120.0,
        max_result_chars: int = 1000,
        terms: Mapping[str, CallPolicy] | None = None,
        trajectory_deadline_s: float = float("inf"),
        pictures: ImageIndex | None = None,
        image_top_k: int = 1,
        sessions: bool = False,
    ):
        counts = dict(top_k=top_k, image_top_k=image_top_k, n_threads=n_threads, max_result_chars=max_result_chars)
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1: got {value}")
        for name, value in (("deadline_s", deadline_s), ("trajectory_deadline_s", trajectory_deadline_s)):
            if not value > 0:
                raise ValueError(f"{name} must be above 0: got {value}")
        self._python = python
        self._sessions = sessions
        self._search = search
        self._top_k = top_k
        self._pictures, self._image_top_k = pictures, image_top_k
        self._enabled = enabled
        self._max_result_chars = max_result_chars
        self._trajectory_deadline_s = trajectory_deadline_s
        self._refused, self._lock = collections.Counter(), threading.Lock()
        usual = CallPolicy(n_threads=n_threads, deadline_s=deadline_s, try_s=deadline_s)
        there = {"python": python, "search": search, "image_search": pictures}
        self._runner = ToolRunner(
            {name: (terms or {}).get(name, usual) for name, tool in there.items() if tool is not None}
        )

    def submit(
        self,
        task: Task,
        action: protocol.Action,
        images: Sequence[Image],
        spent_s: float = 0.0,
        session: CodeSession | None = None,
    ) -> "concurrent.futures.Future[Observation]":
        """Starts a call.

        Args:
          task: whose kind says which tools are offered, and whose corpus is searched.
          action: what the turn asks for.
          images: of the trajectory, in order of arrival: what the code reads as ``image_1``, ``image_2``, ... (their
            own names count for nothing) and, the newest of them, under the paper's name.
          spent_s: what the trajectory's earlier calls took: the sum of its observations' seconds.
          session: the trajectory's own, where it may have one; it counts for nothing where sessions are off.

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
            return self._refuse(action, SWITCHED_OFF)
        named = not task.tools or _TOOL_NAMES[type(action)] in task.tools
        if not named or not isinstance(action, _OFFERED[task.kind]):
            return self._refuse(action, NOT_OFFERED)
        left_s = self._trajectory_deadline_s - spent_s
        match action:
            case protocol.Problem(kinds):
                return _resolved(tip(kinds), ToolStatus.OK)
            case protocol.Code(source) if self._python is not None:
                named = name_images(images)
                if session is not None and self._sessions:
                    run = session.begin(self._python, source, named)
                else:
                    run = functools.partial(self._python.run, source, named)
                return self._runner.submit("python", functools.partial(_run_code, run), deadline_s=left_s)
            case protocol.Search(query) if self._pictures is not None and (
                self._search is None or is_image_query(query)
            ):
                found = functools.partial(
                    find_images, self._pictures, query, images, self._image_top_k, self._max_result_chars
                )
                return self._runner.submit("image_search", lambda call: found(), None, left_s)
            case protocol.Search(query) if self._search is not None:
                return self._start_search(query, task.corpus, left_s)
        return self._refuse(action, NOT_OFFERED)

    def _refuse(self, action: protocol.Action, text: str) -> concurrent.futures.Future:
        with self._lock:
            self._refused[_TOOL_NAMES[type(action)]] += 1
        return _resolved(text, ToolStatus.REFUSED)

    def _start_search(self, query: str, corpus: str, left_s: float) -> concurrent.futures.Future:
        search, top_k = self._search, self._top_k

        def show(hits: list[Hit]) -> Observation:
            return Observation(format_hits(hits, self._max_result_chars))

        if not isinstance(search, RemoteSearch):
            return self._runner.submit("search", lambda call: show(search.search(query, top_k, corpus)), None, left_s)

        def recall() -> Observation | None:
            check_corpus(corpus)
            hits = search.recall(query, top_k)
            return None if hits is None else show(hits)

        return self._runner.submit("search", lambda call: show(search.fetch(query, top_k, call)), recall, left_s)

    @property
    def line(self) -> str:
        """What holds the code that runs here: one line for a log."""
        return "sandbox: off (no code is run)" if self._python is None else self._python.line

    def stamp(self) -> dict[str, str]:
        """The same in a few words, to be recorded with every trajectory and checkpoint: ``{"sandbox": "L1"}``."""
        return {"sandbox": "off" if self._python is None else self._python.stamp}

    def metrics(self) -> dict[str, float]:
        """Counts since the start and durations of the latest calls, as ``tool/<name>/<figure>``.

        ``tool/<name>/refused`` is there for tools too that are not; a refusal is not among the ``calls``.
        """
        with self._lock:
            refused = {f"tool/{name}/refused": float(self._refused[name]) for name in _TOOL_NAMES.values()}
        return self._runner.metrics() | refused

    def close(self) -> None:
        """Resolves what is open as INFRA and ends the threads; safe to repeat."""
        self._runner.close()

    def __enter__(self) -> "Toolbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
