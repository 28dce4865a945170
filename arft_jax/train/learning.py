"""What a GRPO step learns from its trajectories: advantages, log-probs to compare with, updates."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from arft_jax.build.parts import Parts
from arft_jax.build.plan import Plan
from arft_jax.build.settings import objective
from arft_jax.data import packing
from arft_jax.data.samples import Sample, samples_of
from arft_jax.steps import learner
from arft_jax.train.batches import groups_of_updates, images_of, plan_update
from arft_jax.train.exchange import Pool, gathered
from arft_jax.train.rollouts import valid_rows
from arft_jax.train.state import TrainState
from arft_jax.train.update import LogProbs, Updater
from arft_jax.trajectory import Image, Trajectory


class Learning:
    """The compiled programs of a GRPO step's second half.

    Args:
      plan: of the run.
      parts: made from it.
      state: whose arrays the new ones lie like.
    """

    def __init__(self, plan: Plan, parts: Parts, state: TrainState):
        config, policy = plan.config, objective(plan.config, "policy")
        self._plan, self._parts = plan, parts
        self.updater, self.log_probs = Updater(plan, parts, policy, state), LogProbs(plan, parts, policy)
        self._advantages = learner.make_advantages(config.rollout.group_size, config.train.scale_advantages)

    def step(
        self, state: TrainState, trajectories: Sequence[Trajectory], step: int, learning_rate: float
    ) -> dict[str, float]:
        """Learns from a step's trajectories. A meeting of the processes.

        Args:
          state: is given the new parameters and moments.
          trajectories: of this process, row p*G + g.
          step: of GRPO, from 1 on.
          learning_rate: of all its updates.

        Returns:
          Figures of the whole step: means over its updates, largest values of those named ``_max``.
        """
        config = self._plan.config
        pool = gathered(self._pool(trajectories))
        rewards = self._parts.engine.put((pool.rewards, pool.valid))
        by_row, stats = jax.device_get(self._advantages(*rewards))
        samples = [
            dataclasses.replace(sample, advantages=np.full(len(sample.tokens), value, np.float32))
            for sample, value in zip(pool.samples, by_row, strict=True)
        ]
        groups = groups_of_updates(config, step)
        known = set() if config.train.epochs > 1 else set(groups[0])  # they are trained before anything has moved
        old = [len(groups) > 1 and sample.group not in known for sample in samples]
        samples = self.log_probs.added(state, samples, pool.images, old=old, reference=config.train.beta > 0)
        updates = [self._update(state, samples, pool.images, of, k == 0, learning_rate) for k, of in enumerate(groups)]
        return {name: float(value) for name, value in stats.items()} | _over_updates(updates)

    def _pool(self, trajectories: Sequence[Trajectory]) -> Pool:
        valid = valid_rows(trajectories)
        rewards = np.array([t.rewards.get("total", 0.0) for t in trajectories], np.float32)
        images = {name: image for t in trajectories for name, image in images_of(t).items()}
        size = self._plan.config.rollout.group_size
        return Pool(samples_of(trajectories, valid=valid, group_size=size), images, rewards, valid)

    def _update(
        self,
        state: TrainState,
        samples: Sequence[Sample],
        images: Mapping[str, Image],
        groups: Sequence[int],
        on_policy: bool,
        learning_rate: float,
    ) -> dict[str, float]:
        """One optimiser step on these groups."""
        taken = set(groups)
        chosen = [sample for sample in samples if sample.group in taken]
        plan = plan_update(self._plan, chosen)
        if not plan:
            return {}
        stats = self.updater.apply(state, chosen, images, plan, learning_rate, on_policy)
        return stats | packing.figures(plan, chosen)


def _over_updates(updates: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean over updates of each figure, the largest where it is called so."""
    names = dict.fromkeys(name for stats in updates for name in stats)
    values = {name: [stats[name] for stats in updates if name in stats] for name in names}
    return {name: float((max if name.endswith("_max") else np.mean)(some)) for name, some in values.items()}
