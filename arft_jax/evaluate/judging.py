"""The answers of a benchmark graded by a judge, beside F1 and exact match; where it fails an item has no grade."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from arft_jax.evaluate.benchmarks import Benchmark
from arft_jax.rewards import aggregate
from arft_jax.rewards.judge import Judge, JudgeFailure, rendered

_EVERY_S = 5.0


def judged(
    judge: Judge,
    rubric: str,
    benchmark: Benchmark,
    answered: Sequence[tuple[int, Mapping[str, Any]]],
    *,
    n_resamples: int,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Grades answers; what has none is worth 0 unasked.

    Args:
      judge: who is asked, of all answers side by side.
      rubric: what it is told, see arft_jax.rewards.judge.rendered.
      benchmark: which one.
      answered: (number of an item, its line of predictions.jsonl).
      n_resamples: of the interval.
      tell: takes a line of progress now and then.

    Returns:
      ``n`` (items that have a grade), ``mean`` and ``ci95`` in percent (None without an item), ``scores`` (by the
      item's id, from 1; in [0, 1]) and ``missing`` (``id``, ``question_id``, ``reason`` of those without a grade).
    """
    prompts = {number: _prompt(rubric, benchmark, number, line) for number, line in answered}
    for prompt in prompts.values():
        if prompt is not None:
            judge.begin(prompt)
    scores, missing, last = {}, [], time.monotonic()
    for n_done, (number, prompt) in enumerate(prompts.items(), 1):
        try:
            scores[number + 1] = 0.0 if prompt is None else judge.score(prompt)
        except JudgeFailure as failure:
            missing.append({"id": number + 1, "question_id": benchmark.tasks[number].id, "reason": str(failure)})
        if (now := time.monotonic()) - last >= _EVERY_S or n_done == len(prompts):
            tell(f"{benchmark.name}: {n_done} of {len(prompts)} answers judged, {len(missing)} without a grade")
            last = now
    points, groups = [100.0 * score for score in scores.values()], [_group(benchmark, i - 1) for i in scores]
    means, _, _ = aggregate.by_group(points, points, [""] * len(points), groups)
    found: dict[str, Any] = {"n": len(scores), "mean": None, "ci95": None}
    if means:
        resamples = aggregate.bootstrap_means(means, n_resamples=n_resamples, rng=np.random.default_rng(0))
        found |= {"mean": float(np.mean(means)), "ci95": aggregate.interval(resamples)}
    return found | {"scores": scores, "missing": missing}


def _prompt(rubric: str, benchmark: Benchmark, number: int, line: Mapping[str, Any]) -> str | None:
    answer, task = line["pred_answer"], benchmark.tasks[number]
    if not isinstance(answer, str) or not answer.strip():
        return None
    return rendered(rubric, task.question, task.answers, answer)


def _group(benchmark: Benchmark, number: int) -> Any:
    return benchmark.tasks[number].extra.get("group", number)
