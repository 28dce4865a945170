"""One optimiser step after another under one objective, and the log-probs that they are compared with."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from arft_jax.build.parts import Parts
from arft_jax.build.plan import Plan
from arft_jax.data.batch import unpacked
from arft_jax.data.packing import MicroBatch
from arft_jax.data.samples import Sample
from arft_jax.io import hosts
from arft_jax.steps import learner
from arft_jax.steps.optimizer import make_apply
from arft_jax.train.batches import plan_update, put_batch, whole_of
from arft_jax.train.random_streams import Stream, stream_key
from arft_jax.train.state import TrainState
from arft_jax.trajectory import Image


class Updater:
    """The compiled programs of an update under an objective.

    Args:
      plan: of the run.
      parts: made from it.
      objective: the loss.
      state: whose arrays the new ones lie like.
    """

    def __init__(self, plan: Plan, parts: Parts, objective: learner.Objective, state: TrainState):
        self._parts, self._whole, self._seed = parts, plan.placement.whole, plan.config.seed
        self.accumulate = learner.make_accumulate(
            parts.graphdef, objective, like=state.params, placement=plan.placement
        )
        self.apply_gradients = make_apply(
            plan.optimizer, rounding=plan.config.train.param_rounding, like=(state.params, state.opt_state)
        )
        self._zeros = learner.make_zeros(state.params)

    def apply(
        self,
        state: TrainState,
        samples: Sequence[Sample],
        images: Mapping[str, Image],
        micro_batches: Sequence[MicroBatch],
        learning_rate: float,
        on_policy: bool = True,
    ) -> dict[str, float]:
        """Takes one step.

        Args:
          state: is given the new parameters and moments.
          samples: that the micro-batches name.
          images: that they show, by hash.
          micro_batches: of the whole update, over all processes.
          learning_rate: of this step.
          on_policy: the parameters are those before the first update on these samples.

        Returns:
          The figures of the step, on the host.
        """
        members = [samples[i] for micro in micro_batches for i in micro.members]
        whole = hosts.put(whole_of(members, on_policy), self._whole)
        gradients, stats = self._zeros(), []
        for micro in micro_batches:
            batch = put_batch(self._parts, micro, samples, images)
            gradients, more = self.accumulate(state.params, gradients, batch, self._parts.allowed, whole)
            stats.append(more)
        key = stream_key(self._seed, Stream.ROUNDING, state.step)
        rate, key = hosts.put((np.float32(learning_rate), key), self._whole)
        state.params, state.opt_state, of_step = self.apply_gradients(
            state.params, state.opt_state, gradients, rate, key
        )
        joined = learner.joined_stats(jax.device_get(stats)) | jax.device_get(of_step)
        return {name: float(value) for name, value in joined.items()}


class LogProbs:
    """Log-probs of samples under the present policy and under the reference, where the objective reads them.

    Args:
      plan: of the run.
      parts: made from it.
      objective: the loss.
    """

    def __init__(self, plan: Plan, parts: Parts, objective: learner.Objective):
        self._plan, self._parts = plan, parts
        options = dict(placement=plan.placement)
        self.score = learner.make_score(parts.graphdef, objective, **options)
        self.score_base = learner.make_score(parts.graphdef, objective, base=True, **options)

    def added(
        self,
        state: TrainState,
        samples: Sequence[Sample],
        images: Mapping[str, Image],
        *,
        old: Sequence[bool],
        reference: bool,
    ) -> list[Sample]:
        """The samples with their log-probs.

        Args:
          state: of training, before its first update on these samples.
          samples: of all processes.
          images: that they show, by hash.
          old: for each sample whether its log-probs under the present policy are wanted.
          reference: whether those under the reference are wanted, of all.
        """
        out, asked = list(samples), {}
        for which, wanted in (("old_logps", old), ("ref_logps", [reference] * len(samples))):
            some = tuple(i for i, is_wanted in enumerate(wanted) if is_wanted)
            asked[some] = [*asked.get(some, ()), which]  # of the same samples both are read from one batch
        for some, names in asked.items():
            chosen = [samples[i] for i in some]
            for micro in plan_update(self._plan, chosen):
                batch = put_batch(self._parts, micro, chosen, images)
                for which in names:
                    logps = np.asarray(jax.device_get(self._score(which, state, batch)))
                    for k, values in unpacked(micro, chosen, logps).items():
                        out[some[k]] = dataclasses.replace(out[some[k]], **{which: values})
        return out

    def _score(self, which: str, state: TrainState, batch) -> jax.Array:
        allowed = self._parts.allowed
        if which == "old_logps":
            return self.score(state.params, batch, allowed)
        if state.ref_params is None:  # the reference is the policy without its adapters
            return self.score_base(state.params, batch, allowed)
        return self.score(state.reference(), batch, allowed)
