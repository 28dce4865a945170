"""Several evaluations in one table: a policy with its tools, without them and without sight; or several policies."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from arft_jax.evaluate.ledger import read_record
from arft_jax.report import evaluation, table

FORMATS = ("text", "markdown", "json")


def read(folders: Sequence[str]) -> list[dict[str, Any]]:
    """The results of finished evaluations, each with its ``folder``.

    Args:
      folders: the ``--out`` of each.

    Raises:
      ValueError: a folder without results, or two that asked other items under one name.
    """
    found, sha256 = [], {}
    for folder in folders:
        record = read_record(pathlib.Path(folder), "--evaluations")
        try:
            results = json.loads((pathlib.Path(folder) / "results.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"an evaluation must be finished: {folder}: {error} (--evaluations)") from error
        for name in results["benchmarks"]:
            first, expected = sha256.setdefault(name, (folder, record["benchmarks"][name]["sha256"]))
            if record["benchmarks"][name]["sha256"] != expected:
                raise ValueError(
                    f"evaluations must be of the same items: {first} and {folder} have another {name} (--evaluations)"
                )
        found.append(results | {"folder": folder})
    return found


def rows_of(evaluations: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """The cells under ``evaluation.HEADER``: of each benchmark the rows of each evaluation, then those of the paper."""
    rows = []
    for name in dict.fromkeys(name for results in evaluations for name in results["benchmarks"]):
        before = None
        for results in (each for each in evaluations if name in each["benchmarks"]):
            figures = results["benchmarks"][name]
            title = evaluation.title_of(name, figures)
            rows += evaluation.own_rows("" if title == before else title, results, figures)
            before = title
        rows += evaluation.published_rows(name)
    return rows


def render(evaluations: Sequence[dict[str, Any]], form: str) -> str:
    """The table in one of :data:`FORMATS`."""
    if form == "json":
        return json.dumps(evaluations)
    rows = rows_of(evaluations)
    below = "\n".join(filter(None, (evaluation.missing_text(results) for results in evaluations)))
    write = table.markdown if form == "markdown" else table.aligned
    return write(evaluation.HEADER, rows, n_names=3) + (f"\n{below}\n" if below else "")
