"""Benchmarks through the same slots as training: greedy rollouts, scored with the reward's own functions."""

import dataclasses
from collections.abc import Callable, Sequence

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
      trajectories: one an item, in order, with ``f1`` and ``em`` among its rewards but for what a failure ended.
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


def scored(trajectory: Trajectory, *, max_answer_words: int = 0) -> Trajectory:
    """The trajectory with ``f1`` and ``em`` of its answer among its rewards, where pages and tables read them.

    Args:
      trajectory: an ended rollout; one that an infrastructure failure ended is returned as it is: it has no score.
      max_answer_words: longer answers score 0; 0 sets no cap.
    """
    if trajectory.status is Status.INFRA:
        return trajectory
    f1, em = outcome.answer_score(trajectory, max_answer_words=max_answer_words)
    return dataclasses.replace(trajectory, rewards=trajectory.rewards | {"f1": float(f1), "em": float(em)})


def play_greedily(
    engine: Engine,
    params,
    requests: Sequence[Request],
    toolbox: Toolbox,
    *,
    max_turns: int,
    rng: jax.Array,
    on_finish: Callable[[Trajectory], None] | None = None,
    context: str = "append",
) -> list[Trajectory]:
    """One greedy rollout of each request, in their order; see :func:`evaluate`."""
    options = dict(rng=rng, temperature=0.0, max_turns=max_turns, on_finish=on_finish, context=context)
    return [group[0] for group in engine.run(params, requests, toolbox, **options)]


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
    options = dict(max_turns=max_turns, rng=rng, on_finish=on_finish, context=context)
    played = play_greedily(engine, params, requests, toolbox, **options)
    trajectories = tuple(scored(trajectory, max_answer_words=max_answer_words) for trajectory in played)
    scores = np.full((len(tasks), 2), np.nan)
    for i, trajectory in enumerate(trajectories):
        if trajectory.status is not Status.INFRA:
            scores[i] = trajectory.rewards["f1"], trajectory.rewards["em"]
    return Evaluation(trajectories, scores[:, 0], scores[:, 1], tuple(tasks))
