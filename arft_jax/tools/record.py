"""A tool is one record: what the policy is told of it, how it is opened and served, how its calls are handled."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from arft_jax.syntax.spec import ToolSpec
from arft_jax.tools.call import Call
from arft_jax.tools.context import ToolContext
from arft_jax.trajectory import Observation

Work = Callable[[Call], Observation]


@dataclasses.dataclass(frozen=True)
class CallPolicy:
    """How a tool is called.

    Args:
      n_threads: calls served at the same time.
      deadline_s: seconds from submission to a result, waiting and all tries included.
      try_s: seconds of one try, for work that heeds its Call.
      n_tries: tries of a call, the first included.
      pause_s: longest pause before the second try, twice as long before each further one.
      calls_per_s: tries that start in a second; 0: no limit.
      max_waiting: calls that may wait for a thread.
      open_s: seconds between an open breaker and its probes.

    Raises:
      ValueError: for a number below its minimum.
    """

    n_threads: int = 4
    deadline_s: float = 120.0
    try_s: float = 120.0
    n_tries: int = 3
    pause_s: float = 0.5
    calls_per_s: float = 0.0
    max_waiting: int = 4096
    open_s: float = 2.0

    def __post_init__(self):
        for name in ("n_threads", "n_tries", "max_waiting"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1: got {getattr(self, name)}")
        for name in ("deadline_s", "try_s", "open_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0: got {getattr(self, name)}")
        for name in ("pause_s", "calls_per_s"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0: got {getattr(self, name)}")


@dataclasses.dataclass(frozen=True)
class Job:
    """One call, ready to be served in another thread.

    Args:
      work: does it, perhaps several times; may raise Fault, or anything that then counts as an infrastructure failure.
        It should heed its Call.
      recall: asked first, once, whatever the circuit breaker says: what is known without the back-end, or None.
    """

    work: Work
    recall: Callable[[], Observation | None] | None = None


class Service(Protocol):
    """A tool that is open: prepares calls."""

    def begin(self, arguments: Mapping[str, Any], context: ToolContext) -> Job | Observation:
        """Prepares one call, quickly: it runs in the scheduler's thread.

        Args:
          arguments: as the schema allows them.
          context: of the trajectory.

        Returns:
          What serves the call, or its observation where nothing is to be waited for.
        """


@dataclasses.dataclass(frozen=True)
class ToolHost:
    """What a tool may need to be opened: settings, and what only the run can make.

    Args:
      settings: ``config.tools`` as plain dicts.
      search_indices: of the texts that tasks search: paths by task set (search_router.py). None: there are none.
      open_pictures: opens the index of captioned images; None: there is none.
      processor: images to patches, for boxes in the frame of the resized image; None: no such boxes.
    """

    settings: Mapping[str, Any]
    search_indices: Mapping[str, pathlib.Path] | None = None
    open_pictures: Callable[[], AbstractContextManager] | None = None
    processor: Any = None

    @property
    def usual_policy(self) -> CallPolicy:
        """How tools of this machine are called."""
        t = self.settings
        deadline_s = t["deadline_s"]
        return CallPolicy(n_threads=t["n_threads"], deadline_s=deadline_s, try_s=deadline_s, n_tries=t["n_tries"])


@dataclasses.dataclass(frozen=True, eq=False)
class Tool:
    """One tool.

    Args:
      spec: what the policy is told, and how it writes a call.
      open: host -> a context manager that gives the service; what it opens it closes.
      lacks: host -> one sentence that says what is missing for this tool to be opened; empty: nothing.
      policy: host -> how it is called; None: the host's usual way.
      specify: host -> the spec as the host's settings make it; None: as it is.
      is_guest: of one's own: offered to every task that its spec's kinds allow, whatever the configuration offers.
    """

    spec: ToolSpec
    open: Callable[[ToolHost], AbstractContextManager[Service]]
    lacks: Callable[[ToolHost], str] = lambda host: ""
    policy: Callable[[ToolHost], CallPolicy] | None = None
    specify: Callable[[ToolHost], ToolSpec] | None = None
    is_guest: bool = False

    @property
    def name(self) -> str:
        """Of the spec."""
        return self.spec.name

    def call_policy(self, host: ToolHost) -> CallPolicy:
        """How it is called."""
        return host.usual_policy if self.policy is None else self.policy(host)

    def specified(self, host: ToolHost) -> "Tool":
        """The tool with the spec that the host's settings make."""
        return self if self.specify is None else dataclasses.replace(self, spec=self.specify(host))
