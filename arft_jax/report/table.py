"""The table that a run ends with, in the shape of Visual-ARFT's (arXiv 2505.14246, table 1).

Results are one dict a benchmark, one entry a row, each entry as :func:`arft_jax.rewards.aggregate.by_split` returns
it (a delta has the same shape, in points)::

    {"mini_coding": {"before": {"simple": {"f1": 12.5, "em": 10.0, "ci95": {"f1": [8, 17], "em": [6, 14]}},
                                "hard": {...}, "avg": {...}},
                     "after": {...}, "delta": {...}, "without_tools": {...}}}

Rows come as before, after, delta, then whatever else there is. A figure that is missing or None is a dash.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from arft_jax.report import page
from arft_jax.rewards import aggregate

SPLITS = ("simple", "hard", "avg")
MEASURES = ("f1", "em")
FIRST_ROWS = ("before", "after", "delta")
HEADER = (
    "benchmark", "policy",
    "simple F1", "simple EM", "hard F1", "hard EM", "avg F1", "avg EM",
    "95 % of avg F1", "95 % of avg EM",
)  # fmt: skip


def delta_by_split(
    runs: Sequence[tuple[Mapping[str, Sequence], Mapping[str, Sequence]]],
    n_resamples: int = aggregate.N_RESAMPLES,
) -> dict[str, dict[str, Any]]:
    """The ``delta`` entry: paired differences by split, in points of a percent.

    Args:
      runs: one (before, after) a run (seed); each ``{"f1", "em", "splits"}`` with one entry an item, in [0, 1], item i
        the same task in both.
      n_resamples: bootstrap resamples.

    Raises:
      ValueError: two sides that do not hold the same items.
    """
    for n, (before, after) in enumerate(runs):
        if list(before["splits"]) != list(after["splits"]):
            raise ValueError(f"before and after must hold the same items in one order: run {n} does not")
    out: dict[str, dict[str, Any]] = {}
    for split in SPLITS:
        entry: dict[str, Any] = {"ci95": {}}
        for measure in MEASURES:
            pairs = []
            for before, after in runs:
                keep = [i for i, s in enumerate(before["splits"]) if split in ("avg", s)]
                pairs.append(([before[measure][i] for i in keep], [after[measure][i] for i in keep]))
            pairs = [pair for pair in pairs if pair[0]]
            gain = aggregate.paired_delta(pairs, n_resamples=n_resamples) if pairs else {"delta": None, "ci95": None}
            entry[measure], entry["ci95"][measure] = gain["delta"], gain["ci95"]
        out[split] = entry
    return out


def _figure(value: float | None, signed: bool) -> str:
    if value is None:
        return "-"
    return f"{value:+.2f}" if signed else f"{value:.2f}"


def _interval(value: Sequence[float] | None, signed: bool) -> str:
    return "-" if value is None else f"[{_figure(value[0], signed)}, {_figure(value[1], signed)}]"


def cells_of(entry: Mapping[str, Any], signed: bool = False) -> list[str]:
    """F1 and EM of each split, then both intervals of all items, as text."""
    parts = {split: entry.get(split) or {} for split in SPLITS}
    cells = [_figure(parts[split].get(measure), signed) for split in SPLITS for measure in MEASURES]
    intervals = parts["avg"].get("ci95") or {}
    return cells + [_interval(intervals.get(measure), signed) for measure in MEASURES]


def table_rows(results: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """The cells under :data:`HEADER`, as text; the benchmark's name stands on its first row."""
    rows = []
    for benchmark, entries in results.items():
        names = [name for name in FIRST_ROWS if name in entries] + [name for name in entries if name not in FIRST_ROWS]
        for place, name in enumerate(names):
            cells = cells_of(entries[name], name == "delta")
            rows.append(("" if place else benchmark, name.replace("_", " "), *cells))
    return rows


def plain_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Aligned text for a terminal."""
    return aligned(HEADER, table_rows(results))


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]], n_names: int = 2) -> str:
    """A table as text: a ruler above each row whose first cell is not empty.

    Args:
      header: of the columns.
      rows: their cells.
      n_names: how many of the first columns are names, which stand to the left; figures stand to the right.
    """
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        cells = [c.ljust(w) if i < n_names else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        return "  ".join(cells).rstrip()

    ruler = "-" * len(line(header))
    lines = [line(header)]
    for row in rows:
        if row[0]:
            lines.append(ruler)
        lines.append(line(row))
    return "\n".join(lines) + "\n"


def markdown_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The same for a README."""
    return markdown(HEADER, table_rows(results))


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], n_names: int = 2) -> str:
    """The same as :func:`aligned` in Markdown."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * n_names + "---:|" * (len(header) - n_names)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def html_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The same for a page, escaped."""
    head = "".join(f"<th>{page.attribute(cell)}</th>" for cell in HEADER)
    body = []
    for row in table_rows(results):
        cells = "".join(f"<td>{page.text(cell)}</td>" for cell in row[:2])  # the names; all else are figures
        cells += "".join(f"<td>{page.attribute(cell)}</td>" for cell in row[2:])
        body.append(f"<tr{' class=first' if row[0] else ''}>{cells}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
