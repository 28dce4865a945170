"""Several runs of one configuration, seeds apart, as one table.

A figure is the mean over the runs; its interval comes from a bootstrap that draws runs first and items within
them, so that it covers the spread between seeds too.
"""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from arft_jax.report import table

STAGES = ("before", "after", "no_tools")
MAY_DIFFER = ("seed", "name")  # configuration keys, between runs that are averaged


def _items(folder: str) -> dict[str, Any]:
    path = pathlib.Path(folder) / "results.json"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"a run must hold results.json: got {folder} ({error})") from error
    missing = [stage for stage in ("before", "after") if stage not in results]
    if missing:
        raise ValueError(f"a run must be finished: {folder} lacks {', '.join(missing)}")
    return results


def _check_same_config(folders: Sequence[str]) -> None:
    """Raises a ValueError where two runs differ in a key that both of them wrote and that is no matter of the seed."""
    configs = []
    for folder in folders if len(folders) > 1 else ():
        path = pathlib.Path(folder) / "config.json"
        try:
            configs.append((folder, json.loads(path.read_text(encoding="utf-8"))["config"]))
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"a run must hold config.json: got {folder} ({error})") from error
    for folder, theirs in configs[1:]:
        first, mine = configs[0]
        keys = sorted(key for key in mine.keys() & theirs.keys() if mine[key] != theirs[key] and key not in MAY_DIFFER)
        if keys:
            shown = ", ".join(f"{key} ({mine[key]!r} and {theirs[key]!r})" for key in keys[:5])
            more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
            raise ValueError(
                f"runs must be of one configuration but for {' and '.join(MAY_DIFFER)}: {first} and {folder} differ in "
                f"{shown}{more} (--runs)"
            )


def summarise_runs(folders: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The argument of :mod:`arft_jax.report.table`, averaged over runs.

    Args:
      folders: work directories.

    Raises:
      ValueError: a folder that holds no finished run, or runs of different benchmarks or configurations.
    """
    runs = [_items(folder) for folder in folders]
    _check_same_config(folders)
    names = list(runs[0]["before"])
    if any(list(run["before"]) != names for run in runs):
        raise ValueError("runs must share their benchmarks: got " + "; ".join(", ".join(run["before"]) for run in runs))
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        entries = {}
        for stage in STAGES:
            if all(stage in run for run in runs):
                items = [run[stage][name]["items"] for run in runs]
                zero = [dict(part, f1=[0.0] * len(part["f1"]), em=[0.0] * len(part["em"])) for part in items]
                entries[stage] = table.delta_by_split(list(zip(zero, items, strict=True)))
        pairs = [(run["before"][name]["items"], run["after"][name]["items"]) for run in runs]
        found[name] = {"before": entries["before"], "after": entries["after"], "delta": table.delta_by_split(pairs)}
        found[name] |= {stage: entry for stage, entry in entries.items() if stage not in found[name]}
    return found


def render(benchmarks: dict[str, dict[str, Any]], form: str) -> str:
    """``text`` or ``markdown``."""
    return table.markdown_table(benchmarks) if form == "markdown" else table.plain_table(benchmarks)
