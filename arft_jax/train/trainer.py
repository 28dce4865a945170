"""The one training loop: warm start, GRPO, evaluation before, during and after, checkpoints.

Visual-ARFT (arXiv 2505.14246), section 3. Departures from the released trainer:
  1. Tools run during training, over several turns, with images in every turn.
  2. The warm start on recorded chains teaches the protocol only; GRPO starts from it.
  3. The ratio is clipped (``epsilon_low``, ``epsilon_high``); with one update a batch that changes nothing.
  4. A row that an infrastructure failure ended, or whose image is damaged, is in no mask, count or group's mean; where
     asked for neither is one that a budget cut.
  5. Where asked for, slow groups go on in the next step's rollout and importance weights correct for it.
  6. Where asked for, groups whose rewards do not vary are dropped and others begin in their places.

Every stage leaves its mark in the work directory, and the same command goes on behind the last one. Where a run has
several processes, each rolls out its own share of the prompts on its own devices; the update is one program over all.
"""

import contextlib
import time
from typing import Any

import jax

from arft_jax.build import tools as toolset
from arft_jax.build.parts import describe, set_up_jax
from arft_jax.build.plan import plan
from arft_jax.build.settings import objective
from arft_jax.data import packing
from arft_jax.data.samples import samples_of
from arft_jax.io import hosts
from arft_jax.io.disk import naming_write_faults
from arft_jax.io.metrics import Progress
from arft_jax.report import run_report
from arft_jax.tools.toolbox import Toolbox
from arft_jax.train.batches import images_of, imitation_update
from arft_jax.train.evaluation import evaluate_during, evaluate_stage, is_due
from arft_jax.train.learning import Learning
from arft_jax.train.metrics import rollout_metrics, tool_metrics
from arft_jax.train.run import Run, open_run, phase_step
from arft_jax.train.run_dir import RunDir
from arft_jax.train.schedule import learning_rate
from arft_jax.train.skips import SkipLimit
from arft_jax.train.update import Updater
from arft_jax.train.warm_start import chain_trajectories, warm_start_chains
from arft_jax.trajectory import Trajectory


def train(config) -> dict:
    """Runs or resumes the whole of a run; returns the results as written to ``results.json``.

    Raises:
      ValueError: a bad configuration or a work directory of another config, before any compute; an evaluation that an
        infrastructure failure ended; a work directory that cannot be written to. Of the last two the same command
        resumes.
    """
    # ------------------------------------------------- check everything first
    planned = plan(config)
    directory = hosts.in_turn(lambda: RunDir(planned.config))
    set_up_jax(config)
    with naming_write_faults("the work directory", directory.path, "config.workdir"):
        with contextlib.ExitStack() as stack:
            # ----------------------------------------------- parts, data, tools
            run = open_run(planned, directory, stack)
            hosts.print_once(f"{config.name}: {describe(run.parts)}; work directory {directory.path}")
            with jax.transfer_guard("disallow"):
                # ------------------------------------------------ warm start
                if run.state.step < config.warm_start.steps:
                    warm_start(run)
                if run.state.step == config.warm_start.steps:
                    run.state.begin_grpo(planned)
                # ------------------------------------------------------ GRPO
                evaluate_once(run, "before", run.toolbox)
                grpo(run)
                # ----------------------------------------- after, and without
                evaluate_once(run, "after", run.toolbox)
                if config.eval.without_tools:
                    with toolset.open_toolbox(config, planned.offer, planned.host, enabled=False) as off:
                        evaluate_once(run, "no_tools", off)
            if hosts.is_first() and "seconds" not in directory.results():
                directory.add_result("seconds", run.elapsed_s)
            run.checkpoints.wait()
        # -------------------------------------------------------------- report
        return hosts.in_turn(
            lambda: run_report.write_report(config, directory) if hosts.is_first() else directory.results()
        )


# ------------------------------------------------------------------ warm start


def warm_start(run: Run) -> None:
    """Imitation of recorded chains up to ``warm_start.steps``."""
    config, state, w = run.plan.config, run.state, run.plan.config.warm_start
    syntax = run.parts.engine.renderer.syntax
    chains = warm_start_chains(config, run.tasks, run.plan.chains, run.toolbox, syntax)
    data = chain_trajectories(run.parts.engine.renderer, chains, config.rollout.max_tokens)
    hosts.print_once(f"warm start: {len(data)} recorded chains, {w.steps} steps of {w.rows} rows")
    samples, images = samples_of(data), {k: v for chain in data for k, v in images_of(chain).items()}
    updater = Updater(run.plan, run.parts, objective(config, "imitation"), state)
    skips = SkipLimit(config.train.max_skipped)
    progress = Progress("warm start", w.steps, start=state.step)
    while state.step < w.steps:
        state.step += 1
        begin = time.perf_counter()
        plan = imitation_update(run.plan, samples, state.step)
        lr = learning_rate(state.step, w.steps, peak=w.learning_rate, warmup_steps=w.warmup_steps, decay_to=0.1)
        stats = updater.apply(state, samples, images, plan, lr) | packing.figures(plan, samples)
        n_tokens = sum(len(samples[i].tokens) for micro in plan for i in micro.members)
        row = {"phase": "warm_start", "step": state.step, "lr": lr}
        row["tokens_per_s"] = n_tokens / (time.perf_counter() - begin)
        run.log(progress, state.step, row | stats, {"nll": stats["nll"], "tokens/s": row["tokens_per_s"]})
        skips.check([stats], phase_step(config, state.step), run.checkpoints)
        run.end_step(w.steps)


# ------------------------------------------------------------------------ GRPO


def grpo(run: Run) -> None:
    """GRPO steps up to ``train.steps``."""
    config, state, t = run.plan.config, run.state, run.plan.config.train
    first, last = config.warm_start.steps, config.warm_start.steps + t.steps
    learning = Learning(run.plan, run.parts, state)
    progress, skips = Progress("grpo", t.steps, start=state.step - first), SkipLimit(t.max_skipped)
    while state.step < last:
        state.step += 1
        step = state.step - first
        begin, tool_figures = time.perf_counter(), run.toolbox.metrics()
        # ------------------------------------------------------------ rollout
        trajectories = run.rollouts.step(run.rollout_policy(), step)
        run.policy.release()
        rollout_s = time.perf_counter() - begin
        # ------------------------------------------------- advantages, update
        lr = learning_rate(step, t.steps, peak=t.learning_rate, warmup_steps=t.warmup_steps, decay_to=t.decay_to)
        stats, updates = learning.step(state, trajectories, step, lr)
        # ----------------------------------------------------- figures, files
        row = {"phase": "grpo", "step": step, "lr": lr, "rollout_s": rollout_s, "step_s": time.perf_counter() - begin}
        row |= _step_figures(run, trajectories, step, row["step_s"])
        row |= tool_metrics(tool_figures, run.toolbox.metrics())
        row = _of_all_processes(row) | stats
        if is_due(config, step):
            row |= evaluate_during(config, run.parts.engine, run.rollout_policy(), run.tasks, run.toolbox)
        shown = {"reward": "reward", "em": "reward/em", "tools": "tool_calls", "tokens/s": "tokens_per_s"}
        run.log(progress, step, row, {label: row[name] for label, name in shown.items() if name in row})
        skips.check(updates, phase_step(config, state.step), run.checkpoints)
        run.end_step(last)


def _step_figures(run: Run, trajectories: list[Trajectory], step: int, seconds: float) -> dict[str, Any]:
    """What this process's trajectories of a step say."""
    carries = run.plan.config.rollout.carry_over > 0
    figures = rollout_metrics(trajectories, step - 1 if carries else None) | run.rollouts.figures
    return figures | {
        "data/quarantined": float(run.plan.quarantine.n_images),
        "tokens_per_s": sum(len(tr.tokens) for tr in trajectories) / seconds,
    }


def _of_all_processes(row: dict[str, Any]) -> dict[str, Any]:
    """The mean over processes of each figure; their tokens a second together."""
    row = row | hosts.mean_of({name: value for name, value in row.items() if name not in ("phase", "step")})
    return row | {"tokens_per_s": row["tokens_per_s"] * jax.process_count()}


# ------------------------------------------------------------------ evaluation


def evaluate_once(run: Run, stage: str, toolbox: Toolbox) -> None:
    """A stage of every test item, once a run.

    Raises:
      ValueError: an infrastructure failure ended an item; the same command begins the stage again.
    """
    if stage in run.directory.results():
        return
    evaluate_stage(run.plan.config, run.parts.engine, run.rollout_policy(), run.tasks, toolbox, run.directory, stage)
    run.leave_if_asked(hosts.any_of(run.stop.requested))
