"""What a finished run leaves for people: the table, ``reward.png``, ``report.html`` and ``trajectories.html``.

The work directory holds ``metrics.jsonl``, ``results.json`` (``{stage: {task: {"table", "items"}}}``) and
``trajectories/<stage>_<task>.jsonl``, stage being before, after or no_tools.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from arft_jax.config import task_set_name
from arft_jax.io import terminal
from arft_jax.io.metrics import format_seconds, read_metrics
from arft_jax.io.trajectories import load_trajectories
from arft_jax.report import plots, table, trajectories
from arft_jax.rewards import aggregate
from arft_jax.trajectory import Trajectory

STAGES = ("before", "after", "no_tools")


def results_by_benchmark(
    results: Mapping[str, Any], n_resamples: int = aggregate.N_RESAMPLES
) -> dict[str, dict[str, Any]]:
    """``results.json`` turned into the argument of :mod:`arft_jax.report.table`, deltas added.

    Args:
      results: by stage, then task; stages that are missing (a run that is not over) are left out.
      n_resamples: bootstrap resamples of the delta.
    """
    found: dict[str, dict[str, Any]] = {}
    for stage in STAGES:
        for task, entry in results.get(stage, {}).items():
            found.setdefault(task, {})[stage] = entry["table"]
    for task, entries in found.items():
        if "before" in entries and "after" in entries:
            pair = (results["before"][task]["items"], results["after"][task]["items"])
            entries["delta"] = table.delta_by_split([pair], n_resamples)
    return found


def rows_with_ends(
    rows: Sequence[Mapping[str, Any]], benchmarks: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The GRPO rows, with the evaluations before and after at step 0 and at the last step."""
    grpo = [dict(row) for row in rows if row.get("phase") == "grpo"]

    def ends(stage: str, step: int) -> list[dict[str, Any]]:
        em = {
            f"eval/{task}/em": entries[stage]["avg"]["em"] for task, entries in benchmarks.items() if stage in entries
        }
        return [{"phase": "grpo", "step": step} | em] if em else []

    return ends("before", 0) + grpo + ends("after", max((row["step"] for row in grpo), default=0))


def _load(directory: pathlib.Path, stage: str, task: str) -> list[Trajectory]:
    """Of every process that rolled some of them out."""
    folder, name = directory / "trajectories", f"{stage}_{task}"
    paths = [path for path in (folder / f"{name}.jsonl", *sorted(folder.glob(f"{name}.*.jsonl"))) if path.exists()]
    return [trajectory for path in paths for trajectory in load_trajectories(path)]


def shown_trajectories(
    directory: pathlib.Path, tasks: Sequence[str], n_each: int
) -> tuple[list[Trajectory], list[Trajectory]]:
    """(after, before) of ``n_each`` test items a task, spaced evenly over the test set: not picked by outcome."""
    after, before = [], []
    for task in tasks:
        found = _load(directory, "after", task)
        picked = np.unique(np.linspace(0, len(found) - 1, min(n_each, len(found))).astype(int))
        after += [found[i] for i in picked]
        before += _load(directory, "before", task)
    return after, before


def _facts(directory: pathlib.Path, results: Mapping[str, Any]) -> dict[str, Any]:
    written = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    facts = {"wall time": format_seconds(results["seconds"])} if "seconds" in results else {}
    return facts | written["versions"] | {f"config.{key}": value for key, value in written["config"].items()}


def write_report(config: Any, directory: Any) -> dict[str, Any]:
    """Writes the report of a run and prints its table.

    Args:
      config: the resolved configuration; reads ``name``, ``data.tasks``, ``report`` and ``eval.bootstrap``.
      directory: the :class:`arft_jax.train.run_dir.RunDir`.

    Returns:
      ``results.json`` as written, with the key ``benchmarks``: the table's figures.
    """
    path = pathlib.Path(directory.path)
    results = directory.results()
    benchmarks = results_by_benchmark(results, config.eval.bootstrap)
    directory.add_result("benchmarks", benchmarks)
    metrics = path / "metrics.jsonl"
    rows = rows_with_ends(read_metrics(metrics) if metrics.exists() else [], benchmarks)
    png = plots.reward_plot(rows, config.name, path / "reward.png")
    text = table.plain_table(benchmarks)
    plots.write_report(
        path / "report.html", config.name, benchmarks, png, _facts(path, results), trajectories="trajectories.html"
    )
    after, before = shown_trajectories(
        path, [task_set_name(task) for task in config.data.tasks], config.report.n_trajectories
    )
    trajectories.write_trajectories(path / "trajectories.html", config.name, after, before, text)
    (path / "table.txt").write_text(text, encoding="utf-8")
    (path / "table.md").write_text(table.markdown_table(benchmarks), encoding="utf-8")
    terminal.say(text)
    for name in ("report.html", "reward.png", "trajectories.html"):
        terminal.say(f"wrote {path / name}")
    return directory.results()
