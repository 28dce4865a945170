"""The one door between the loop and the tools: a call goes in, a future of an observation comes out."""

import collections
import concurrent.futures
import contextlib
import threading
from collections.abc import Iterator, Mapping

from absl import logging

from arft_jax.protocol import ToolCall
from arft_jax.syntax.spec import BadCall, check_arguments
from arft_jax.tools.context import ToolContext
from arft_jax.tools.offer import Offer
from arft_jax.tools.record import CallPolicy, Service, ToolHost
from arft_jax.tools.runner import ToolRunner, fault
from arft_jax.trajectory import Observation, Task, ToolStatus

# What the policy reads. Short: a small model reads them too.
SWITCHED_OFF = "Tools are switched off. Answer now."
NOT_OFFERED = "This tool is not offered here."


def resolved(observation: Observation) -> "concurrent.futures.Future[Observation]":
    """A future that is done."""
    future: concurrent.futures.Future = concurrent.futures.Future()
    future.set_result(observation)
    return future


def observed(future: "concurrent.futures.Future[Observation]") -> Observation:
    """What a tool returned; a call that was cancelled or raised, which none should, is an infrastructure failure."""
    if future.cancelled():
        return Observation("the call was cancelled", (), ToolStatus.INFRA)
    if (raised := future.exception()) is not None:
        logging.error("a tool call raised: %r", raised, exc_info=raised)
        return Observation(f"the call raised {type(raised).__name__}", (), ToolStatus.INFRA)
    return future.result()


class Toolbox:
    """Serves the tool calls of many trajectories side by side; no call ever raises into the loop.

    It uses services that are open and leaves closing them to their owner (:func:`open_tools`).

    Args:
      offer: the tools of the run, and which of them a task is offered.
      services: those that are open, by name; calls of others are refused.
      policies: how each open tool is called, by name.
      enabled: False refuses every call, for the control experiment without tools.
      trajectory_deadline_s: seconds that all calls of one trajectory may take together.

    Raises:
      ValueError: a deadline that is not above 0.
    """

    def __init__(
        self,
        offer: Offer,
        services: Mapping[str, Service],
        policies: Mapping[str, CallPolicy],
        *,
        enabled: bool = True,
        trajectory_deadline_s: float = float("inf"),
    ):
        if not trajectory_deadline_s > 0:
            raise ValueError(f"trajectory_deadline_s must be above 0: got {trajectory_deadline_s}")
        self._offer, self._services = offer, dict(services)
        self._enabled, self._trajectory_deadline_s = enabled, trajectory_deadline_s
        self._refused, self._lock = collections.Counter(), threading.Lock()
        self._runner = ToolRunner(
            {name: policies[name] for name, service in services.items() if not getattr(service, "is_instant", False)}
        )

    def submit(self, call: ToolCall, context: ToolContext) -> "concurrent.futures.Future[Observation]":
        """Starts a call.

        Args:
          call: of a tool of the run, or of one that there is not.
          context: of the trajectory: its task says which tools are offered.

        Returns:
          A future that always resolves to an observation. Refusals, and what needs no waiting, are resolved at once.
        """
        if not self._enabled:
            return self._refuse(call, SWITCHED_OFF)
        tool = next((tool for tool in self._offer.of(context.task) if tool.name == call.tool), None)
        if tool is None or call.tool not in self._services:
            return self._refuse(call, NOT_OFFERED)
        try:
            begun = self._services[call.tool].begin(check_arguments(tool.spec.parameters, call.arguments), context)
        except BadCall as error:
            return resolved(Observation(str(error), (), ToolStatus.ERROR))
        except Exception as error:  # preparing a call is our own code
            return resolved(fault(error))
        if isinstance(begun, Observation):
            return resolved(begun)
        left_s = self._trajectory_deadline_s - context.spent_s
        return self._runner.submit(call.tool, begun.work, begun.recall, left_s)

    def _refuse(self, call: ToolCall, text: str) -> concurrent.futures.Future:
        with self._lock:
            self._refused[call.tool] += 1
        return resolved(Observation(text, (), ToolStatus.REFUSED))

    @property
    def line(self) -> str:
        """What holds the code that runs here: one line for a log."""
        lines = [service.line for service in self._services.values() if hasattr(service, "line")]
        return "; ".join(lines) or "sandbox: off (no code is run)"

    def stamp(self) -> dict[str, str]:
        """The same in a few words, to be recorded with every trajectory and checkpoint: ``{"sandbox": "L1"}``."""
        stamp = {"sandbox": "off"}
        for service in self._services.values():
            stamp |= service.stamp() if hasattr(service, "stamp") else {}
        return stamp

    def metrics(self) -> dict[str, float]:
        """Counts since the start and durations of the latest calls, as ``tool/<name>/<figure>``.

        ``tool/<name>/refused`` is there for tools too that are not open; a refusal is not among the ``calls``. Services
        that have ``counts()`` add counts of their own.
        """
        with self._lock:
            refused = {f"tool/{name}/refused": float(self._refused[name]) for name in self._offer.tools}
        counted = {name: service.counts() for name, service in self._services.items() if hasattr(service, "counts")}
        own = {f"tool/{name}/{key}": count for name, counts in counted.items() for key, count in counts.items()}
        return self._runner.metrics() | own | refused

    def close(self) -> None:
        """Resolves what is open as INFRA and ends the threads; safe to repeat."""
        self._runner.close()

    def __enter__(self) -> "Toolbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Conversation:
    """The tools as one trajectory meets them, for those who play it themselves: a context and the door.

    Args:
      toolbox: serves the calls.
      task: of the trajectory.
    """

    def __init__(self, toolbox: Toolbox, task: Task):
        self._toolbox, self.context = toolbox, ToolContext(task)

    def submit(self, call: ToolCall) -> "concurrent.futures.Future[Observation]":
        """Starts a call; see :meth:`Toolbox.submit`."""
        return self._toolbox.submit(call, self.context)

    def admit(self, observation: Observation) -> Observation:
        """Takes a reply in; see :meth:`ToolContext.admit`."""
        return self.context.admit(observation)


@contextlib.contextmanager
def open_tools(
    offer: Offer, host: ToolHost, *, enabled: bool = True, trajectory_deadline_s: float = float("inf")
) -> Iterator[Toolbox]:
    """Opens every tool and serves them; all of them are closed on leaving.

    Args:
      offer: the tools of the run.
      host: what they are opened with.
      enabled: False opens none and refuses every call.
      trajectory_deadline_s: seconds that all calls of one trajectory may take together.

    Raises:
      ValueError: what a tool refuses; of the search a back-end without its key, its package or its recorded replies.
      NoneHolds: (a RuntimeError) the sandbox's level does not hold on this host; the message says what to do.
    """
    with contextlib.ExitStack() as stack:
        opened = offer.tools if enabled else {}
        services = {name: stack.enter_context(tool.open(host)) for name, tool in opened.items()}
        policies = {name: tool.call_policy(host) for name, tool in opened.items()}
        options = dict(enabled=enabled, trajectory_deadline_s=trajectory_deadline_s)
        yield stack.enter_context(Toolbox(offer, services, policies, **options))
