"""What an evaluation ends with: the paper's table with our row in it, what is missing, and the difference to another.

Visual-ARFT (arXiv 2505.14246), table 1. Published rows have no intervals: their items are not published.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from arft_jax.evaluate import published
from arft_jax.evaluate.ledger import predictions_of, read_record, scores_of
from arft_jax.evaluate.scoring import N_ITEMS
from arft_jax.remote.costs import told
from arft_jax.report import table
from arft_jax.rewards import aggregate

HEADER = ("benchmark", "system", "tools", *table.HEADER[2:])
_NAMED = 10  # items that are missing, at most


def title_of(name: str, figures: Mapping[str, Any]) -> str:
    """A benchmark as its first row names it: ``mini_coding (a part: 50 of 200 items)``."""
    if figures["n_answered"] == figures["n_items"]:
        return name
    missing = figures["n_asked"] - figures["n_answered"]
    more = f", {missing} not answered" if missing else ""
    return f"{name} (a part: {figures['n_answered']} of {figures['n_items']} items{more})"


def rows_of(results: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The cells under :data:`HEADER`: of each benchmark our rows, then those of the paper, then the comparison."""
    rows = []
    for name, figures in results["benchmarks"].items():
        rows += own_rows(title_of(name, figures), results, figures) + published_rows(name)
        if delta := results.get("compare", {}).get("benchmarks", {}).get(name):
            label = f"difference to {results['compare']['system']}, {delta['n']} items"
            rows.append(("", label, "", *table.cells_of(delta["delta"], signed=True)))
    return rows


def own_rows(title: str, results: Mapping[str, Any], figures: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The row of one evaluation and, below it, one for each category of a benchmark that has some.

    Args:
      title: what the first cell says.
      results: of the evaluation.
      figures: those of one of its benchmarks.
    """
    tools = "yes" if results["tools"] == "on" else "no"
    rows = [(title, results["system"], tools, *table.cells_of(figures["table"]))]
    return rows + [
        ("", f"of {category}", tools, *table.cells_of(entry))
        for category, entry in figures.get("categories", {}).items()
    ]


def published_rows(name: str) -> list[tuple[str, ...]]:
    """The rows of the paper for a benchmark; none for one that it does not have."""
    return [
        ("", row.system, "yes" if row.tools else "no", *table.cells_of(row.figures[name]))
        for row in published.rows_of(name)
    ]


def missing_text(results: Mapping[str, Any]) -> str:
    """A line for each benchmark some of whose items were not answered; empty where all were."""
    lines = []
    for name, figures in results["benchmarks"].items():
        if missing := figures["missing"]:
            named = "; ".join(f"{item['question_id']}: {item['reason']}" for item in missing[:_NAMED])
            more = f"; and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
            lines.append(
                f"{name}: {len(missing)} of {figures['n_asked']} items were not answered, the same command tries them "
                f"again: {named}{more}"
            )
    return "\n".join(lines)


def notes(results: Mapping[str, Any]) -> str:
    """What a reader of the table must know beside it: other items than the published ones, and what is missing."""
    lines = [
        f"{name}: the published rows are of the {N_ITEMS[name]} items of MAT, and the data directory has "
        f"{figures['n_items']}"
        for name, figures in results["benchmarks"].items()
        if published.rows_of(name) and figures["n_items"] != N_ITEMS[name]
    ]
    costs = told(results["costs"]) if "costs" in results else ""
    judge_costs = told(results["judge_costs"], "config.rewards.judge") if "judge_costs" in results else ""
    return "\n".join([*lines, *filter(None, [judge_text(results), missing_text(results), costs, judge_costs])])


def judge_text(results: Mapping[str, Any]) -> str:
    """A line for each benchmark whose answers a judge has graded; empty where there was none."""
    lines = []
    for name, figures in results["benchmarks"].items():
        if not (judged := figures.get("judge")):
            continue
        shown = "no item"
        if judged["n"]:
            low, high = judged["ci95"]
            shown = f"{judged['mean']:.2f} [{low:.2f}, {high:.2f}] over {judged['n']} items"
        lines.append(f"{name}: graded by {judged['model']}: {shown}")
        if missing := judged["missing"]:
            named = "; ".join(f"{item['question_id']}: {item['reason']}" for item in missing[:_NAMED])
            more = f"; and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
            lines.append(f"{name}: {len(missing)} items have no grade, the same command asks again: {named}{more}")
    return "\n".join(lines)


def plain(results: Mapping[str, Any]) -> str:
    """The table as text for a terminal."""
    return table.aligned(HEADER, rows_of(results), n_names=3)


def markdown(results: Mapping[str, Any]) -> str:
    """The table in Markdown, and the notes to it."""
    below = notes(results)
    return table.markdown(HEADER, rows_of(results), n_names=3) + (f"\n{below}\n" if below else "")


def check_comparable(other: pathlib.Path, benchmarks: Mapping[str, str]) -> dict[str, Any]:
    """The record of another evaluation with which this one can be compared item by item.

    Args:
      other: its folder.
      benchmarks: ``{name: sha256}`` of this one.

    Raises:
      ValueError: no evaluation there, none of these benchmarks, or one of them with other items.
    """
    record = read_record(other, "--compare")
    theirs = record["benchmarks"]
    if not theirs.keys() & benchmarks.keys():
        raise ValueError(
            f"evaluations must share a benchmark to be compared: {other} has {', '.join(theirs) or 'none'}, this one "
            f"{', '.join(benchmarks)} (--compare)"
        )
    for name in sorted(theirs.keys() & benchmarks.keys()):
        if theirs[name]["sha256"] != benchmarks[name]:
            raise ValueError(
                f"evaluations must be of the same items to be compared: {other} has a {name} of other items, "
                f"{theirs[name]['n_items']} of them with sha256 {theirs[name]['sha256'][:12]}, this one has "
                f"{benchmarks[name][:12]} (--compare)"
            )
    return record


def compare(
    results: Mapping[str, Any], other: pathlib.Path, record: Mapping[str, Any], n_resamples: int
) -> dict[str, Any]:
    """This evaluation less another one: paired differences over the items that both have, with their intervals.

    Args:
      results: of this one.
      other, record: the folder of the other one, and what :func:`check_comparable` returned.
      n_resamples: of the bootstrap.

    Returns:
      ``folder``, ``system`` and ``benchmarks``: ``{name: {"n": items, "delta": by split, in points}}``.
    """
    found = {}
    for name, figures in results["benchmarks"].items():
        if name not in record["benchmarks"]:
            continue
        mine, theirs = _by_id(figures["items"]), _by_id(scores_of(predictions_of(other / name).values()))
        common = [number for number in mine if number in theirs]
        before, after = (_items([side[number] for number in common]) for side in (theirs, mine))
        found[name] = {"n": len(common), "delta": table.delta_by_split([(before, after)], n_resamples)}
    return {"folder": str(other), "system": record["system"], "benchmarks": found}


_COLUMNS = ("f1", "em", "splits", "groups")


def _by_id(items: Mapping[str, Sequence]) -> dict[int, tuple]:
    with_groups = {"groups": items["ids"], **items}
    return dict(zip(items["ids"], zip(*(with_groups[key] for key in _COLUMNS), strict=True), strict=True))


def _items(rows: Sequence[tuple]) -> dict[str, list]:
    columns = ([row[place] for row in rows] for place in range(len(_COLUMNS)))
    return dict(zip(("f1", "em", "splits"), aggregate.by_group(*columns), strict=True))
