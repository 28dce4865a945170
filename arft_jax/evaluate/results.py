"""From the files of an evaluation to its figures: what was answered, what is missing and why."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from arft_jax.config import PUBLIC_TASKS
from arft_jax.evaluate.benchmarks import Benchmark
from arft_jax.evaluate.ledger import faults_of, predictions_of, scores_of
from arft_jax.rewards import aggregate


def results_of(benchmark: Benchmark, numbers: Sequence[int], folder: pathlib.Path, n_resamples: int) -> dict[str, Any]:
    """The figures of those of the items that were answered.

    Args:
      benchmark: which one.
      numbers: of the items that were asked for.
      folder: of its predictions.
      n_resamples: of an interval.

    Returns:
      ``n_items`` (of the benchmark), ``n_asked``, ``n_answered``, ``missing`` (a dict for each item that was not
      answered: ``id``, ``question_id``, ``reason``), ``table`` (simple, hard, avg, in percent, with intervals),
      ``categories`` (of a public benchmark that has some: each a table with ``avg`` alone) and ``items`` (``ids``,
      ``f1``, ``em``, ``splits``, ``groups``, ``categories``).
    """
    predictions, faults = predictions_of(folder), faults_of(folder)
    items = scores_of(predictions[number] for number in numbers if number in predictions)
    missing = [
        {
            "id": number + 1,
            "question_id": benchmark.tasks[number].id,
            "reason": faults.get(number, {}).get("reason", "it was not asked"),
        }
        for number in numbers
        if number not in predictions
    ]
    categories = sorted(set(items["categories"]) - {""}) if benchmark.name in PUBLIC_TASKS else ()
    return {
        "n_items": benchmark.n_items,
        "n_asked": len(numbers),
        "n_answered": len(items["ids"]),
        "missing": missing,
        "table": table_of(items, n_resamples),
        "categories": {category: {"avg": table_of(items, n_resamples, category)["avg"]} for category in categories},
        "items": items,
    }


def table_of(items: Mapping[str, Sequence], n_resamples: int, category: str = "") -> dict[str, Any]:
    """simple, hard, avg, with the means of a group of items as one item (aggregate.by_group).

    Args:
      items: of ledger.scores_of.
      n_resamples: of an interval.
      category: of the items that count; empty: all do.
    """
    keep = [place for place, of in enumerate(items["categories"]) if category in ("", of)]
    columns = ([items[key][place] for place in keep] for key in ("f1", "em", "splits", "groups"))
    return aggregate.by_split(*aggregate.by_group(*columns), n_resamples=n_resamples)
