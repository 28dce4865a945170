"""The reward plot of a run, and the page that shows it beside the table."""

import io
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from arft_jax.report import page, table

CURVES = (
    ("reward", "total reward", "#1f5fa8", 1.2),
    ("reward/format", "format", "#8a8d91", 1.0),
    ("reward/accuracy", "accuracy", "#c8641b", 1.0),
)
EVAL_COLOURS = ("#14713a", "#8b3fa0", "#a8281c", "#46708a")
SMOOTH = 9  # steps of the running mean


def series(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values), each float64[n], of the rows where ``key`` is there and finite."""
    found = [(row["step"], row[key]) for row in rows if isinstance(row.get(key), (int, float))]
    found = [(step, value) for step, value in found if math.isfinite(value)]
    steps, values = zip(*found, strict=True) if found else ((), ())
    return np.array(steps, np.float64), np.array(values, np.float64)


def running_mean(values: np.ndarray, width: int = SMOOTH) -> np.ndarray:
    """Mean over a centred window that is cut at the ends: [0, 3, 6] with width 3 is [1.5, 3, 4.5]."""
    half = width // 2
    return np.array([values[max(0, i - half) : i + half + 1].mean() for i in range(len(values))])


def evaluation_series(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Exact match by benchmark: the keys ``eval/<benchmark>/em``, percent."""
    keys = dict.fromkeys(key for row in rows for key in row if key.startswith("eval/") and key.endswith("/em"))
    return {key.removeprefix("eval/").removesuffix("/em"): series(rows, key) for key in keys}


def reward_plot(rows: Sequence[Mapping[str, Any]], name: str, path: str | os.PathLike | None = None) -> bytes:
    """Total, format and accuracy reward by step, evaluations as marks on an axis of their own.

    Args:
      rows: of ``metrics.jsonl``: ``step`` and any of ``reward``, ``reward/format``, ``reward/accuracy``,
        ``eval/<benchmark>/em``.
      name: the run's name.
      path: also written there, where given.

    Returns:
      The PNG.
    """
    figure = Figure(figsize=(9, 4.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for key, label, colour, width in CURVES:
        steps, values = series(rows, key)
        if len(steps):
            axes.plot(steps, values, color=colour, linewidth=0.7, alpha=0.35)
            axes.plot(steps, running_mean(values), color=colour, linewidth=1.4 * width, label=label)
    axes.set_xlabel("step")
    axes.set_ylabel(f"mean reward a trajectory (thick: running mean of {SMOOTH})")
    axes.set_title(name)
    axes.grid(alpha=0.25)
    handles, labels = axes.get_legend_handles_labels()
    evaluations = evaluation_series(rows)
    if evaluations:
        right = axes.twinx()
        right.set_ylabel("held-out exact match, %")
        right.set_ylim(0, 100)
        for place, (benchmark, (steps, values)) in enumerate(evaluations.items()):
            colour = EVAL_COLOURS[place % len(EVAL_COLOURS)]
            (line,) = right.plot(steps, values, "--D", color=colour, linewidth=0.9, markersize=5)
            handles.append(line)
            labels.append(f"{benchmark} EM")
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=len(handles), frameon=False)
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    if path is not None:
        pathlib.Path(path).write_bytes(stream.getvalue())
    return stream.getvalue()


def report_page(
    name: str,
    results: Mapping[str, Mapping[str, Any]],
    png: bytes,
    facts: Mapping[str, Any] | None = None,
    trajectories: str = "",
) -> str:
    """The run on one page: table, plot, facts.

    Args:
      name: the run's name.
      results: see :mod:`arft_jax.report.table`.
      png: of :func:`reward_plot`.
      facts: shown as a list, for example versions and times.
      trajectories: file name of the trajectory page to link to.
    """
    body = [f"<h1>{page.text(name)}</h1>", table.html_table(results)]
    body.append('<p class="dim">Percent; delta in points; intervals are 95 % bootstrap over items.</p>')
    body.append(f'<p><img alt="reward by step" src="{page.data_uri(png)}"></p>')
    if trajectories:
        body.append(f'<p><a href="{page.attribute(trajectories)}">trajectories</a></p>')
    if facts:
        lines = [f"<tr><td>{page.text(key)}</td><td>{page.text(value)}</td></tr>" for key, value in facts.items()]
        body.append(f"<table><tbody>{''.join(lines)}</tbody></table>")
    return page.frame(name, "\n".join(body))


def write_report(path: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
    """:func:`report_page` into a file."""
    page.write(path, report_page(*args, **kwargs))
