"""The loop over a benchmark's items: what is not answered yet is asked, what a fault of ours ended is asked again."""

import dataclasses
import time
from collections.abc import Callable, Sequence

from arft_jax.evaluate.benchmarks import Benchmark
from arft_jax.evaluate.evaluator import scored
from arft_jax.evaluate.ledger import Ledger
from arft_jax.evaluate.policy import Item, Policy
from arft_jax.io.metrics import format_seconds
from arft_jax.trajectory import Status, Task, ToolStatus, Trajectory


def ask(
    policy: Policy,
    benchmark: Benchmark,
    tasks: Sequence[Task],
    numbers: Sequence[int],
    ledger: Ledger,
    *,
    attempts: int,
    on_end: Callable[[], None] = lambda: None,
    tell: Callable[[str], None] = lambda line: None,
    note: Callable[[], str] = lambda: "",
) -> None:
    """Asks items and writes down how each ends; returns when each is answered or has been tried ``attempts`` times.

    Args:
      policy: who is asked.
      benchmark: what its items are of.
      tasks: all of its items as they are asked, which may be without sight.
      numbers: of the items to ask, none of them answered.
      ledger: where answers and faults go, as they come.
      attempts: how often an item is asked that an infrastructure failure ends.
      on_end: called behind each item that ended and is written down; what it raises ends the call.
      tell: takes a line for people now and then.
      note: what else such a line says.
    """
    progress = _Progress(benchmark.name, len(numbers), tell, note)
    pending = list(numbers)
    for attempt in range(1, attempts + 1):
        failed: list[int] = []
        begin = time.perf_counter()

        def end(number: int, trajectory: Trajectory, attempt=attempt, failed=failed, begin=begin) -> None:
            asked = dict(question_id=trajectory.task.id, benchmark=benchmark.name, n_items=benchmark.n_items)
            took = dict(attempt=attempt, seconds=round(time.perf_counter() - begin, 3))
            if trajectory.status is Status.INFRA:
                failed.append(number)
                ledger.add_fault(number, asked | took | {"reason": reason_of(trajectory)})
            else:
                trajectory = scored(trajectory)
                info = trajectory.info | {"benchmark": benchmark.name, "item": number, "n_items": benchmark.n_items}
                trajectory = dataclasses.replace(trajectory, info=info)
                ledger.add(number, asked | prediction_of(trajectory) | took, trajectory)
            progress.add(trajectory)
            on_end()

        if pending:
            policy([Item(number, tasks[number]) for number in pending], end)
        pending = sorted(failed)
        if pending and attempt < attempts:
            ended = f"{len(pending)} items ended by an infrastructure failure"
            tell(f"{benchmark.name}: {ended}; attempt {attempt + 1} of them")


OF_ITEM = ("category", "group")  # what a benchmark says of an item, kept with its prediction


def prediction_of(trajectory: Trajectory) -> dict:
    """What a line of predictions.jsonl says of a scored trajectory; launch/score.py reads it."""
    observations = [turn.observation for turn in trajectory.turns if turn.observation is not None]
    return {
        "kind": trajectory.task.kind,
        "pred_answer": trajectory.answer,
        "answers": list(trajectory.task.answers),
        "split": trajectory.task.split,
        **({"choices": list(trajectory.task.choices)} if trajectory.task.choices else {}),
        **{key: trajectory.task.extra[key] for key in OF_ITEM if isinstance(trajectory.task.extra.get(key), str)},
        "f1": trajectory.rewards["f1"],
        "em": trajectory.rewards["em"],
        "status": trajectory.status.value,
        "n_turns": len(trajectory.turns),
        "n_tool_calls": sum(turn.call is not None for turn in trajectory.turns),
        "tool_seconds": round(sum(seen.seconds for seen in observations), 3),
    } | ({"reason": trajectory.info["reason"]} if "reason" in trajectory.info else {})


def reason_of(trajectory: Trajectory) -> str:
    """Why an infrastructure failure ended a trajectory, in one line."""
    for turn in reversed(trajectory.turns):
        if turn.observation is not None and turn.observation.status is ToolStatus.INFRA:
            tool = turn.call.tool if turn.call else "tool"
            return f"{tool}: {' '.join(turn.observation.text.split())}"
    return str(trajectory.info.get("reason", "not known"))


class _Progress:
    """Says how far a benchmark is, not more often than every few seconds.

    Args:
      name: of the benchmark.
      total: items to ask.
      tell: takes a line.
      note: what else it says; empty: nothing.
    """

    EVERY_S = 5.0

    def __init__(self, name: str, total: int, tell: Callable[[str], None], note: Callable[[], str] = lambda: ""):
        self._name, self._total, self._tell, self._note = name, total, tell, note
        self._begin = self._last = time.monotonic()
        self._n_ended, self._n_infra, self._f1, self._em = 0, 0, 0.0, 0.0

    def add(self, trajectory: Trajectory) -> None:
        """Counts an item that ended."""
        self._n_ended += 1
        if trajectory.status is Status.INFRA:
            self._n_infra += 1
        else:
            self._f1, self._em = self._f1 + trajectory.rewards["f1"], self._em + trajectory.rewards["em"]
        now = time.monotonic()
        if now - self._last >= self.EVERY_S or self._n_ended == self._total:
            self._last = now
            self._tell(self.line(now - self._begin))

    def line(self, seconds: float) -> str:
        """The state after so many seconds."""
        n_answered = self._n_ended - self._n_infra
        pace = self._n_ended / max(seconds, 1e-9)
        parts = [f"{self._name} {n_answered}/{self._total}"]
        if n_answered:
            parts.append(f"F1 {100 * self._f1 / n_answered:.1f}  EM {100 * self._em / n_answered:.1f}")
        left = format_seconds((self._total - n_answered) / pace)
        parts += [f"infra {self._n_infra}", f"{pace:.2f} items/s", f"ETA {left}"]
        return "  ".join([*parts, *filter(None, [self._note()])])
