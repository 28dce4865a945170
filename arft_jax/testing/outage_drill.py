"""Outages of a search service during rollouts, measured: what they cost, how soon they are noticed and forgotten.

The engine, the toolbox, the sockets and the failing server are real; the policy says what a script says, and each
decode call sleeps as long as a larger policy would compute.

    python -m arft_jax.testing.outage_drill

prints one row a fault, for steps of about 30 s and the time limits of the default config, in seconds where not said:
  error      a step whose tools answer at once with an error: the policy goes on to its answer
  at once    a step whose tools fail at once: the trajectory ends
  first      the step in which the outage begins
  open       a step while the breaker is open
  ratio      of first or open, whichever is longer, to error
  cost       first less at once: about two tries and a pause, however long the step is
  opened     from the first call into the outage, which begins with a step, to the open breaker
  closed     from the recovery to the closed breaker
  infra      trajectories that ended by an infrastructure failure; "scored infra": those among them that would be scored
"""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterator, Sequence

import jax

from arft_jax.config import default_config
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.rollout.request import Request
from arft_jax.testing import tiny_rollout as tiny
from arft_jax.testing.fault_server import FAULTS, WELL, FaultServer
from arft_jax.testing.toolboxes import make_toolbox
from arft_jax.tools.remote_search import TRY_S, open_remote_search
from arft_jax.tools.runner import CallPolicy
from arft_jax.tools.toolbox import Toolbox
from arft_jax.trajectory import Observation, Status, ToolStatus, Trajectory

N_SLOTS, GROUP, N_TASKS = 16, 4, 8
_POLL_S = 0.01
_GIVE_UP_S = 60.0


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One outage; seconds, except where said.

    Args:
      fault: mode of the server.
      error_s, fault_s, first_s, open_s, opened_s, closed_s: see the module.
      n_infra: trajectories that ended by an infrastructure failure.
      n_leaked: trajectories that saw an infrastructure failure and ended otherwise: such would be scored.
      n_trapped: connections to where the redirect points.
      well_before, well_after: whether every trajectory was answered before and after.
    """

    fault: str
    error_s: float
    fault_s: float
    first_s: float
    open_s: float
    opened_s: float
    closed_s: float
    n_infra: int
    n_leaked: int
    n_trapped: int
    well_before: bool
    well_after: bool

    @property
    def ratio(self) -> float:
        """Of the worse step to one with instant errors."""
        return max(self.first_s, self.open_s) / self.error_s

    @property
    def cost_s(self) -> float:
        """What the beginning costs, beside a step whose trajectories end at their first call too."""
        return self.first_s - self.fault_s


def default_policy() -> CallPolicy:
    """How the default config has a search service called."""
    t, s = default_config().tools, default_config().tools.search
    return CallPolicy(s.n_threads, s.deadline_s, s.try_s or TRY_S["http"], t.n_tries, calls_per_s=s.calls_per_s)


class Stand:
    """An engine whose policy thinks, searches once and answers.

    Args:
      decode_s: what each decode call sleeps.
      n_thoughts: words before the search.
      n_prompts: of a step, each with 4 rows.
    """

    def __init__(self, decode_s: float, n_thoughts: int = 48, n_prompts: int = 16):
        self._decode_s = 0.0
        self._stage = tiny.Stage(
            Tokenizer.tiny(), before_decode=lambda: time.sleep(self._decode_s), n_slots=N_SLOTS, group_size=GROUP,
            max_turn_tokens=96, max_tokens=320, extend_chunk=32,
        )  # fmt: skip
        tasks = [tiny.tiny_task(i) for i in range(N_TASKS)]
        think = "look" + " a" * n_thoughts
        turns = [f"<think>{think}</think><search>red fox</search>", "<think>seen</think><answer>7</answer>"]
        self._params = self._stage.params([(task, turns) for task in tasks])
        self._requests = [Request(tasks[n % N_TASKS], n, GROUP) for n in range(n_prompts)]
        self.step(tiny.InstantTools(tiny.failing))  # compiles
        self.step(tiny.InstantTools(lambda *call: Observation("seen")))
        self._decode_s = decode_s

    @contextlib.contextmanager
    def hurry(self) -> Iterator[None]:
        """Steps inside are not measured: decode calls do not sleep."""
        decode_s, self._decode_s = self._decode_s, 0.0
        try:
            yield
        finally:
            self._decode_s = decode_s

    def step(self, tools) -> tuple[float, list[Trajectory]]:
        """(seconds, trajectories) of a step's rollout."""
        start = time.monotonic()
        groups = self._stage.engine.run(self._params, self._requests, tools, rng=jax.random.key(0), temperature=1.0)
        return time.monotonic() - start, [t for group in groups for t in group]

    def error_s(self) -> float:
        """Seconds of a step whose tools answer at once with an error, upon which the policy answers."""
        return self.step(tiny.InstantTools(lambda *call: Observation("error", (), ToolStatus.ERROR)))[0]

    def fault_s(self) -> float:
        """Seconds of a step whose tools fail at once, which ends the trajectory."""
        return self.step(tiny.InstantTools(tiny.failing))[0]


class _FirstCall:
    """A toolbox that remembers when it was first asked."""

    def __init__(self, toolbox: Toolbox):
        self._toolbox, self.at = toolbox, float("inf")

    def submit(self, *args, **kwargs):
        self.at = min(self.at, time.monotonic())
        return self._toolbox.submit(*args, **kwargs)


class _Watch(threading.Thread):
    """Notes when the breaker first has a state."""

    def __init__(self, toolbox: Toolbox, is_open: bool):
        super().__init__(daemon=True)
        self._toolbox, self._is_open = toolbox, is_open
        self.at, self.ended = float("inf"), threading.Event()
        self.start()

    def run(self) -> None:
        while not self.ended.wait(_POLL_S):
            if (self._toolbox.metrics()["tool/search/breaker"] > 0) is self._is_open:
                self.at = time.monotonic()
                return

    def stop(self) -> float:
        """When it was; infinite if it never was."""
        self.ended.set()
        self.join()
        return self.at


def drill(stand: Stand, fault: str, policy: CallPolicy, n_open_steps: int = 1) -> Outcome:
    """An outage from its beginning to its end, after steps to compare it with."""
    error_s, fault_s = stand.error_s(), stand.fault_s()
    with (
        FaultServer() as server,
        open_remote_search("http", url=server.url) as search,
        make_toolbox(None, search, policies={"search": policy}) as toolbox,
    ):
        with stand.hurry():
            before = stand.step(toolbox)[1]
        server.set_mode(fault)
        watch, asked = _Watch(toolbox, True), _FirstCall(toolbox)
        first_s, seen = stand.step(asked)
        opened_s = watch.stop() - asked.at
        open_s = 0.0
        for _ in range(n_open_steps):
            seconds, more = stand.step(toolbox)
            open_s, seen = open_s + seconds / n_open_steps, seen + more
        server.set_mode(WELL)
        recovery, watch = time.monotonic(), _Watch(toolbox, False)
        while watch.is_alive() and time.monotonic() - recovery < _GIVE_UP_S:
            time.sleep(_POLL_S)
        closed_s = watch.stop() - recovery
        with stand.hurry():
            after = stand.step(toolbox)[1]
        n_trapped = server.n_trapped
    return Outcome(
        fault, error_s, fault_s, first_s, open_s, opened_s, closed_s,
        n_infra=sum(t.status is Status.INFRA for t in seen),
        n_leaked=sum(_saw_a_fault(t) and t.status is not Status.INFRA for t in before + seen + after),
        n_trapped=n_trapped,
        well_before=all(t.status is Status.ANSWERED for t in before),
        well_after=all(t.status is Status.ANSWERED for t in after),
    )  # fmt: skip


def _saw_a_fault(trajectory: Trajectory) -> bool:
    return any(turn.observation and turn.observation.status is ToolStatus.INFRA for turn in trajectory.turns)


def table(outcomes: Sequence[Outcome]) -> str:
    """One row an outage."""
    head = ("fault", "error", "at once", "first", "open", "ratio", "cost", "opened", "closed", "infra", "scored infra")
    rows = []
    for o in outcomes:
        seconds = (o.error_s, o.fault_s, o.first_s, o.open_s, o.ratio, o.cost_s, o.opened_s, o.closed_s)
        rows.append((o.fault, *(f"{value:.2f}" for value in seconds), str(o.n_infra), str(o.n_leaked)))
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)]
    return "\n".join(lines)


def main() -> None:
    """Every fault in turn."""
    stand = Stand(decode_s=0.45)
    print(table([drill(stand, fault, default_policy()) for fault in FAULTS]))


if __name__ == "__main__":
    main()
