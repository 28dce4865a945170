"""Trajectories that ended as a test wants, without an engine, and a policy whose items end so."""

from collections.abc import Mapping, Sequence

import numpy as np

from arft_jax.evaluate.policy import Item, OnEnd, Policy
from arft_jax.testing.toolboxes import turn_of
from arft_jax.trajectory import Image, Observation, Status, Task, ToolStatus, Trajectory

FAULT = None  # in the place of an answer: an infrastructure failure ends the item


def small_task(number: int, answer: str = "7", split: str = "") -> Task:
    """A task with a picture of its own; odd ones are hard."""
    image = Image(np.full((4, 4, 3), number % 256, np.uint8), "image_1")
    split = split or ("hard" if number % 2 else "simple")
    return Task(f"t{number}", "coding", f"question {number}?", (image,), (answer,), split=split)


def ended(task: Task, answer: str | None) -> Trajectory:
    """A tool call, and an answer in the turn behind it; :data:`FAULT`: the call ends it."""
    status = ToolStatus.INFRA if answer is FAULT else ToolStatus.OK
    seen = Observation("tool fault: no\nroute" if answer is FAULT else "done", (), status, 0.25)
    turns = [turn_of("<think>t</think><code>```python\nx\n```</code>", 2, 4, seen)]
    if answer is not FAULT:
        turns.append(turn_of(f"<think>t</think><answer>{answer}</answer>", 5, 7))
    n, mask = 8, np.zeros(8, bool)
    return Trajectory(
        task, 0, np.zeros(n, np.int32), np.zeros(n, np.float32), mask, mask, np.zeros((3, n), np.int32), 2, (),
        tuple(turns), Status.INFRA if answer is FAULT else Status.ANSWERED,
    )  # fmt: skip


class TablePolicy:
    """Answers from a table, the last item first; ``asked`` holds the numbers of each call.

    Args:
      answers: of an item, by its number, one for each time that it is asked; the last one stays. Others answer "7".
    """

    def __init__(self, answers: Mapping[int, Sequence[str | None]] | None = None):
        self._answers = {number: list(given) for number, given in (answers or {}).items()}
        self.asked: list[list[int]] = []

    @property
    def policy(self) -> Policy:
        """As an evaluation takes it."""
        return self._play

    def _play(self, items: Sequence[Item], on_end: OnEnd) -> None:
        self.asked.append([item.number for item in items])
        for item in reversed(items):
            given = self._answers.get(item.number, ["7"])
            on_end(item.number, ended(item.task, given.pop(0) if len(given) > 1 else given[0]))
