"""What a GRPO step learns from its trajectories: advantages, log-probs to compare with, updates."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from arft_jax.build.parts import Parts
from arft_jax.build.plan import Plan
from arft_jax.build.settings import advantage_settings, objective
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
        self._plan, self._parts, self._policy = plan, parts, policy.policy
        self.updater, self.log_probs = Updater(plan, parts, policy, state), LogProbs(plan, parts, policy)
        self._advantages = learner.make_advantages(config.rollout.group_size, advantage_settings(config), policy.policy)

    def step(
        self, state: TrainState, trajectories: Sequence[Trajectory], step: int, learning_rate: float
    ) -> tuple[dict[str, float], list[dict[str, float]]]:
        """Learns from a step's trajectories. A meeting of the processes.

        Args:
          state: is given the new parameters and moments.
          trajectories: of this process, row p*G + g.
          step: of GRPO, from 1 on.
          learning_rate: of all its updates.

        Returns:
          Figures of the whole step: means over its updates, largest values of those named ``_max``; and those of each
          update.
        """
        config = self._plan.config
        pool = gathered(self._pool(trajectories))
        groups = groups_of_updates(config, step)
        # The first update's are known: it comes before anything has moved, and takes them from its own forward pass.
        known = set() if config.train.epochs > 1 or self._has_kl_in_reward else set(groups[0])
        is_asked = len(groups) > 1 or self._has_kl_in_reward
        old = [is_asked and sample.group not in known for sample in pool.samples]
        samples = self.log_probs.added(state, pool.samples, pool.images, old=old, reference=self._policy.beta > 0)
        samples, stats = self._with_advantages(samples, pool)
        updates = [self._update(state, samples, pool.images, of, k == 0, learning_rate) for k, of in enumerate(groups)]
        updates = [figures for figures in updates if figures]  # none where a whole update has failed rows alone
        return stats | _over_updates(updates), updates

    @property
    def _has_kl_in_reward(self) -> bool:
        return self._policy.beta > 0 and self._policy.kl_in == "reward"

    def _with_advantages(self, samples: Sequence[Sample], pool: Pool) -> tuple[list[Sample], dict[str, float]]:
        """The samples with the advantage of each token, and what the rewards of the step say."""
        read = ("loss_mask", *(("old_logps", "ref_logps") if self._has_kl_in_reward else ()))
        length = self._plan.config.rollout.max_tokens  # not the longest, so that one program serves all steps
        arrays = (pool.rewards, pool.valid, *(_padded(samples, name, length) for name in read))
        by_token, stats = jax.device_get(self._advantages(*self._parts.engine.put(arrays)))
        made = [
            dataclasses.replace(sample, advantages=row[: len(sample.tokens)])
            for sample, row in zip(samples, by_token, strict=True)
        ]
        return made, {name: float(value) for name, value in stats.items()}

    def _pool(self, trajectories: Sequence[Trajectory]) -> Pool:
        valid = valid_rows(self._plan.config, trajectories)
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


def _padded(samples: Sequence[Sample], name: str, length: int) -> np.ndarray:
    """[B, length] of a field that is by token; 0 behind a sample and where it has none."""
    out = np.zeros((len(samples), length), bool if name == "loss_mask" else np.float32)
    for row, sample in zip(out, samples, strict=True):
        values = getattr(sample, name)
        if values is not None:
            row[: len(values)] = values
    return out


def _over_updates(updates: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean over updates of each figure, the largest where it is called so."""
    names = dict.fromkeys(name for stats in updates for name in stats)
    values = {name: [stats[name] for stats in updates if name in stats] for name in names}
    return {name: float((max if name.endswith("_max") else np.mean)(some)) for name, some in values.items()}
