"""Benchmarks through the same slots as training: greedy rollouts, scored with the reward's own functions."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from arft_jax.rewards import aggregate, outcome
from arft_jax.rollout.engine import Engine
from arft_jax.rollout.request import Request
from arft_jax.tools.toolbox import Toolbox
from arft_jax.trajectory import Status, Task, Trajectory


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Scores of one policy on one list of tasks, item by item.

    Args:
      trajectories: one an item, in order.
      f1, em: float64[n_items] in [0, 1]; 0 where no answer came, nan where an infrastructure failure ended the item.
      tasks: the items.
    """

    trajectories: tuple[Trajectory, ...]
    f1: np.ndarray
    em: np.ndarray
    tasks: tuple[Task, ...]

    @property
    def splits(self) -> tuple[str, ...]:
        """``simple`` or ``hard`` for each item."""
        return tuple(task.split for task in self.tasks)

    def figures(self) -> dict[str, float]:
        """``infra``: items that an infrastructure failure ended; ``f1``, ``em`` of the others, if any, in percent."""
        sound = ~np.isnan(self.f1)
        figures = {"infra": float((~sound).sum())}
        if sound.any():
            figures |= {"f1": float(100 * self.f1[sound].mean()), "em": float(100 * self.em[sound].mean())}
        return figures

    def table(self, n_resamples: int) -> dict:
        """``simple``, ``hard``, ``avg``, each with n, f1, em and ci95, in percent.

        Raises:
          ValueError: an item failed by an infrastructure failure: a benchmark with holes would be a wrong figure.
        """
        failed = [self.tasks[i].id for i in np.flatnonzero(np.isnan(self.f1))]
        if failed:
            raise ValueError(
                f"every item must be answered without a fault of the tools: failed {len(failed)} of {len(self.tasks)} "
                f"items, among them {', '.join(failed[:5])}; once the tools are well the same command goes on from here"
            )
        return aggregate.by_split(self.f1, self.em, self.splits, n_resamples=n_resamples)

    def items(self) -> dict:
        """The per-item scores as lists, for paired comparisons later."""
        return {"f1": self.f1.tolist(), "em": self.em.tolist(), "splits": list(self.splits)}


def evaluate(
    engine: Engine,
    params,
    tasks: Sequence[Task],
    toolbox: Toolbox,
    *,
    max_turns: int,
    max_answer_words: int = 0,
    rng: jax.Array,
    on_finish=None,
    context: str = "append",
) -> Evaluation:
    """Greedy rollout of every task.

    Args:
      engine, params: the policy.
      tasks: the benchmark's items.
      toolbox: switch it off to measure what the policy does without tools.
      max_turns: policy turns allowed.
      max_answer_words: longer answers score 0; 0 sets no cap.
      rng: has no effect on greedy picks; every run takes one.
      on_finish: called with each trajectory as it ends.
      context: ``append``, or ``rerender``: each turn has a prompt of its own, as in the paper's evaluation.
    """
    requests = [Request(task, number, 1) for number, task in enumerate(tasks)]
    options = dict(rng=rng, temperature=0.0, max_turns=max_turns, on_finish=on_finish, context=context)
    groups = engine.run(params, requests, toolbox, **options)
    trajectories = tuple(group[0] for group in groups)
    scores = np.full((len(tasks), 2), np.nan)
    for i, trajectory in enumerate(trajectories):
        if trajectory.status is not Status.INFRA:
            scores[i] = outcome.answer_score(trajectory, max_answer_words=max_answer_words)
    return Evaluation(trajectories, scores[:, 0], scores[:, 1], tuple(tasks))
