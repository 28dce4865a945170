"""The evaluations of a run: whole stages before and after training, a part of the items during it."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from arft_jax.build.data import Tasks
from arft_jax.evaluate.evaluator import Evaluation, evaluate
from arft_jax.io import hosts
from arft_jax.io.trajectories import save_trajectories
from arft_jax.rollout.engine import Engine
from arft_jax.tools.toolbox import Toolbox
from arft_jax.train.random_streams import Stream, stream_key
from arft_jax.train.run_dir import RunDir
from arft_jax.trajectory import Task


def evaluate_items(config, engine: Engine, policy: Any, tasks: Sequence[Task], toolbox: Toolbox) -> Evaluation:
    """Scores of all items; trajectories of those that this process rolled out.

    Args:
      config: of the run.
      engine: on this process's devices.
      policy: as the engine reads it.
      tasks: the items of all processes.
      toolbox: serves the policy's calls.
    """
    done = evaluate(
        engine,
        policy,
        [tasks[i] for i in hosts.deal(len(tasks))],
        toolbox,
        max_turns=config.rollout.max_turns_eval,
        max_answer_words=config.rewards.max_answer_words,
        rng=engine.put(stream_key(config.seed, Stream.EVALUATION, 0)),
        context=config.rollout.context,
    )
    f1, em = hosts.gather_dealt(np.stack([done.f1, done.em], axis=1), len(tasks)).T
    return Evaluation(done.trajectories, f1, em, tuple(tasks))


def evaluate_stage(
    config, engine: Engine, policy: Any, tasks: Tasks, toolbox: Toolbox, directory: RunDir, stage: str
) -> None:
    """Every test item of every task; figures to results.json, trajectories beside it.

    Args:
      config, engine, policy, toolbox: as of :func:`evaluate_items`.
      tasks: by name and split.
      directory: of the run.
      stage: what the figures are kept under.

    Raises:
      ValueError: an infrastructure failure ended an item; the same command begins the stage again.
    """
    results = {}
    for name, split in tasks.items():
        begin = time.perf_counter()
        done = evaluate_items(config, engine, policy, split["test"], toolbox)
        own = f".{jax.process_index()}" if jax.process_count() > 1 else ""
        stamped = [dataclasses.replace(tr, info=tr.info | toolbox.stamp()) for tr in done.trajectories]
        save_trajectories(directory.path / "trajectories" / f"{stage}_{name}{own}.jsonl", stamped)
        results[name] = {"table": done.table(config.eval.bootstrap), "items": done.items()}
        avg = results[name]["table"]["avg"]
        hosts.print_once(f"{stage} {name}: F1 {avg['f1']:.2f} EM {avg['em']:.2f} ({time.perf_counter() - begin:.0f} s)")
    if hosts.is_first():
        directory.add_result(stage, results)


def is_due(config, step: int) -> bool:
    """Whether a GRPO step is followed by an evaluation: every ``eval.every``-th but the last, which has a stage."""
    return bool(config.eval.every) and step % config.eval.every == 0 and step != config.train.steps


def evaluate_during(config, engine: Engine, policy: Any, tasks: Tasks, toolbox: Toolbox) -> dict[str, float]:
    """Figures of ``eval.n_during`` test items of each task.

    What an infrastructure failure ended is left out and counted: an outage must not end the run.

    Args:
      config, engine, policy, toolbox: as of :func:`evaluate_items`.
      tasks: by name and split.
    """
    figures = {}
    for name, split in tasks.items():
        test = split["test"]
        picked = [test[i] for i in np.linspace(0, len(test) - 1, min(config.eval.n_during, len(test))).astype(int)]
        done = evaluate_items(config, engine, policy, picked, toolbox)
        figures |= {f"eval/{name}/{key}": value for key, value in done.figures().items()}
    hosts.print_once("  ".join(f"{key} {value:.1f}" for key, value in figures.items()))
    return figures
