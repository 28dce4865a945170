"""From the files of an evaluation to its figures: what was answered, what is missing and why."""

import pathlib
from collections.abc import Sequence
from typing import Any

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
      answered: ``id``, ``question_id``, ``reason``), ``table`` (simple, hard, avg, in percent, with intervals) and
      ``items`` (``ids``, ``f1``, ``em``, ``splits``).
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
    return {
        "n_items": benchmark.n_items,
        "n_asked": len(numbers),
        "n_answered": len(items["ids"]),
        "missing": missing,
        "table": aggregate.by_split(items["f1"], items["em"], items["splits"], n_resamples=n_resamples),
        "items": items,
    }
