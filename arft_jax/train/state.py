"""The state of training: what a checkpoint holds, and the policy's copy that rollouts read."""

import dataclasses
from collections.abc import Callable
from typing import Any

from flax import nnx

from arft_jax.build.parts import Parts, check_trained_with
from arft_jax.build.plan import Plan
from arft_jax.io.checkpoints import Checkpoints
from arft_jax.models.lora import with_trained
from arft_jax.steps import learner
from arft_jax.steps.optimizer import init_opt_state


@dataclasses.dataclass
class TrainState:
    """What training changes. An update gives it new arrays; the old ones are donated.

    Args:
      params: of the policy.
      opt_state: of the optimiser.
      ref_params: of the reference policy what is trained, the adapters or everything; None where none is kept.
      step: warm-start and GRPO steps finished, or, within a step, that step.
    """

    params: nnx.State
    opt_state: Any
    ref_params: nnx.State | None
    step: int = 0

    def arrays(self) -> dict[str, Any]:
        """The arrays by name, as they are in a checkpoint."""
        return {"params": self.params, "opt_state": self.opt_state, "ref_params": self.ref_params}

    def begin_grpo(self, plan: Plan) -> None:
        """The optimiser starts again; the warm-started policy becomes the reference where the config says so."""
        self.opt_state = init_opt_state(plan.optimizer, self.params, plan.placement)
        if self.ref_params is not None and plan.config.train.reference == "start":
            self.ref_params = learner.copy_trained(self.params)

    def reference(self) -> nnx.State:
        """The whole reference policy; where none is kept the policy itself, whose frozen base is then scored."""
        return self.params if self.ref_params is None else with_trained(self.params, self.ref_params)


def open_state(plan: Plan, parts: Parts, checkpoints: Checkpoints) -> tuple[TrainState, dict[str, Any] | None]:
    """The state of the newest good checkpoint, or that of step 0.

    Returns:
      The state, and what the checkpoint holds beside the arrays; None where there is no checkpoint.

    Raises:
      ValueError: a checkpoint of another config or of another tokenizer.
    """
    abstract = learner.abstract_train_state(plan.optimizer, parts.abstract, plan.keeps_reference, plan.placement)
    found = checkpoints.restore_latest(abstract)
    if found is None:
        first = learner.train_state(plan.optimizer, parts.first_params(), plan.keeps_reference, plan.placement)
        return TrainState(**first), None
    step, arrays, host = found
    check_trained_with(plan.tokenizer, host, str(checkpoints.directory))
    return TrainState(**arrays, step=step), host


class RolloutPolicy:
    """The one home of the policy as rollouts read it: moved to their devices, its layers unstacked where the cache is.

    It is made at the first call after an update and kept for all rollouts and evaluations up to :meth:`release`.

    Args:
      make: params as trained -> as the engine reads them (``Parts.for_rollout``).
    """

    def __init__(self, make: Callable[[nnx.State], Any]):
        self._make = make
        self._source: nnx.State | None = None
        self._made: Any = None

    def __call__(self, params: nnx.State) -> Any:
        """The copy of these parameters."""
        if params is not self._source:
            self.release()  # two copies need not fit
            self._source, self._made = params, self._make(params)
        return self._made

    def release(self) -> None:
        """Lets the copy go: training needs its memory."""
        self._source = self._made = None
