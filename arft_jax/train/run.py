"""A run under way: its settings, what it works with, its state; how it is opened, saved and left."""

import contextlib
import dataclasses
import time
from typing import Any

from arft_jax.build import tools as toolset
from arft_jax.build.data import Tasks
from arft_jax.build.parts import Parts, make
from arft_jax.build.plan import Plan, prepare_data
from arft_jax.io import hosts
from arft_jax.io.checkpoints import Checkpoints
from arft_jax.io.metrics import MetricsWriter, Progress
from arft_jax.tools.toolbox import Toolbox
from arft_jax.train.preemption import Stopped, StopRequest
from arft_jax.train.rollouts import TrainRollouts
from arft_jax.train.run_dir import RunDir
from arft_jax.train.state import RolloutPolicy, TrainState, open_state


@dataclasses.dataclass(frozen=True)
class Run:
    """What the stages share. Only ``state`` and ``rollouts`` change from step to step.

    Args:
      plan: the settings, read and checked.
      directory: the work directory.
      parts: model and engine, on the devices.
      tasks: by name and split.
      toolbox: serves the policy's calls.
      checkpoints: of this run.
      metrics: of the first process; None on the others.
      stop: whether this process was asked to end.
      state: what a checkpoint holds of the devices.
      rollouts: which tasks a step begins; its places are in a checkpoint too.
      policy: the copy of ``state.params`` that rollouts read.
      begin_s: of the clock, less what earlier sessions of the run took.
    """

    plan: Plan
    directory: RunDir
    parts: Parts
    tasks: Tasks
    toolbox: Toolbox
    checkpoints: Checkpoints
    metrics: MetricsWriter | None
    stop: StopRequest
    state: TrainState
    rollouts: TrainRollouts
    policy: RolloutPolicy
    begin_s: float

    @property
    def elapsed_s(self) -> float:
        """Seconds of this and of earlier sessions."""
        return time.perf_counter() - self.begin_s

    def rollout_policy(self) -> Any:
        """The present parameters as the engine reads them."""
        return self.policy(self.state.params)

    def log(self, progress: Progress, step: int, row: dict[str, Any], shown: dict[str, float]) -> None:
        """One row of metrics and one line for people, once."""
        if self.metrics is not None:
            self.metrics.write(self.state.step, row)
            progress.update(step, shown)

    def save(self) -> None:
        """Writes a checkpoint of this step where there is none yet."""
        if self.checkpoints.latest_step() != self.state.step:
            host = {"seconds": self.elapsed_s, "tokenizer": self.plan.tokenizer.sha256}
            host |= self.rollouts.state() | self.toolbox.stamp()
            self.checkpoints.save(self.state.step, self.state.arrays(), host)

    def end_step(self, last: int) -> None:
        """Saves when it is time, at ``last`` in any case; leaves where any process was asked to end."""
        asked, step = hosts.any_of(self.stop.requested), self.state.step
        if step == last or step % self.plan.config.checkpoint.every == 0 or asked:
            self.save()
        self.leave_if_asked(asked)

    def leave_if_asked(self, asked: bool) -> None:
        """Ends the process where it was asked to end; what is finished is on disk by then."""
        if asked:
            self.checkpoints.wait()
            where = phase_step(self.plan.config, self.state.step)
            raise Stopped(f"stopped by a signal behind {where}; the same command resumes", self.stop.number)


def phase_step(config, step: int) -> str:
    """A step of the whole run as the progress lines count it.

    Example: 4 warm-start and 8 GRPO steps: step 3 is "warm start step 3 of 4", step 8 is "grpo step 4 of 8".
    """
    warm = config.warm_start.steps
    if 0 < step <= warm:
        return f"warm start step {step} of {warm}"
    return f"grpo step {step - warm} of {config.train.steps}" if step > warm else "no step yet"


def open_run(plan: Plan, directory: RunDir, stack: contextlib.ExitStack) -> Run:
    """Builds what a run works with, or resumes it; ``stack`` closes what has been opened.

    Raises:
      ValueError: self-made prompts that do not fit, tools that cannot be opened, a checkpoint of another run.
    """
    parts = make(plan)
    # The first process before the others: they find what it wrote.
    tasks = hosts.in_turn(lambda: prepare_data(plan))
    toolbox = stack.enter_context(toolset.open_toolbox(plan.config, plan.offer, plan.host))
    hosts.print_once(toolbox.line)
    checkpoints = stack.enter_context(Checkpoints(directory.path / "checkpoints", keep=plan.config.checkpoint.keep))
    state, host = open_state(plan, parts, checkpoints)
    stack.enter_context(contextlib.closing(plan.scorer))
    rollouts = TrainRollouts.of_plan(plan, parts.engine, tasks, toolbox)
    stop = stack.enter_context(StopRequest())
    rollouts.tell_quarantined()
    if host is not None:
        rollouts.restore(host)
        hosts.print_once(f"resumed behind {phase_step(plan.config, state.step)}")
    metrics = None
    if hosts.is_first():
        metrics = stack.enter_context(MetricsWriter(directory.path / "metrics.jsonl", resume_step=state.step))
    begin_s = time.perf_counter() - (0.0 if host is None else host["seconds"])
    return Run(
        plan, directory, parts, tasks, toolbox, checkpoints, metrics, stop, state, rollouts,
        RolloutPolicy(parts.for_rollout), begin_s,
    )  # fmt: skip
