"""Benchmarks through the same slots as training: greedy rollouts, scored with the reward's own functions."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from arft_jax.rewards import aggregate, outcome
from arft_jax.rollout import Engine, Request
from arft_jax.tools.toolbox import Toolbox
from arft_jax.trajectory import Status, Task, Trajectory


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Scores of one policy on one list of tasks, item by item.

    Args:
      trajectories: one an item, in order.
      f1, em: float64[n_items] in [0, 1]; 0 where no answer came.
      splits: ``simple`` or ``hard`` for each item.
    """

    trajectories: tuple[Trajectory, ...]
    f1: np.ndarray
    em: np.ndarray
    splits: tuple[str, ...]

    def table(self, n_resamples: int) -> dict:
        """``simple``, ``hard``, ``avg``, each with n, f1, em and ci95, in percent."""
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

    Raises:
      ValueError: an item failed by a fault of ours: a benchmark with holes would be a wrong figure.
    """
    requests = [Request(task, number, 1) for number, task in enumerate(tasks)]
    options = dict(rng=rng, temperature=0.0, max_turns=max_turns, on_finish=on_finish, context=context)
    groups = engine.run(params, requests, toolbox, **options)
    trajectories = tuple(group[0] for group in groups)
    failed = [t.task.id for t in trajectories if t.status is Status.INFRA]
    if failed:
        raise ValueError(
            f"every item must be answered without a fault of the tools: failed {failed[:5]} of {len(tasks)} items"
        )
    scores = np.array([outcome.answer_score(t, max_answer_words=max_answer_words) for t in trajectories]).reshape(-1, 2)
    return Evaluation(trajectories, scores[:, 0], scores[:, 1], tuple(task.split for task in tasks))
