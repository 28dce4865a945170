"""One optimiser step after another under one objective."""

import jax
import numpy as np

from arft_jax.build.parts import Parts
from arft_jax.build.plan import Plan
from arft_jax.data.batch import Batch
from arft_jax.io import hosts
from arft_jax.steps import learner
from arft_jax.train.state import TrainState


class Updater:
    """The compiled update of an objective.

    Args:
      plan: of the run.
      parts: made from it.
      objective: the loss.
      state: whose arrays the new ones lie like.
    """

    def __init__(self, plan: Plan, parts: Parts, objective: learner.Objective, state: TrainState):
        self.update = learner.make_update(
            parts.graphdef, objective, plan.optimizer, like=(state.params, state.opt_state), placement=plan.placement
        )
        self._allowed, self._whole = parts.allowed, plan.placement.whole

    def apply(
        self,
        state: TrainState,
        batch: Batch,
        learning_rate: float,
        old_logps: jax.Array | None = None,
        ref_logps: jax.Array | None = None,
    ) -> dict[str, float]:
        """Takes one step.

        Args:
          state: is given the new parameters and moments.
          batch: on the devices.
          learning_rate: of this step.
          old_logps, ref_logps: float32[B, T], of the policy before the step's first update and of the reference; None
            where the objective does not read them.

        Returns:
          The figures of the step, on the host.
        """
        rate = hosts.put(np.float32(learning_rate), self._whole)
        state.params, state.opt_state, stats = self.update(
            state.params, state.opt_state, batch, self._allowed, rate, old_logps, ref_logps
        )
        return {name: float(value) for name, value in jax.device_get(stats).items()}
