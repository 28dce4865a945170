"""From one score an item to percentages with bootstrap intervals, and to paired differences.

MAT has 200 and 150 items, so that one item is 0.5 or 0.67 points: every mean carries a 95 % interval. Percentile
bootstrap over items (Efron and Tibshirani 1993, chapter 13); for runs from several seeds, seeds are drawn
first and items within each (Davison and Hinkley 1997, section 3.8).
"""

from collections.abc import Hashable, Sequence

import numpy as np

N_RESAMPLES = 4000
_CHUNK = 2_000_000  # indices drawn at once: bounds memory at about 32 MB


def bootstrap_means(scores: np.ndarray, *, n_resamples: int = N_RESAMPLES, rng: np.random.Generator) -> np.ndarray:
    """Means of resamples of the items, all columns of an item drawn together.

    Args:
      scores: float[n_items, ...].
      n_resamples: how many.
      rng: where the draws come from.

    Returns:
      float64[n_resamples, ...].
    """
    scores = np.asarray(scores, np.float64)
    n_items = scores.shape[0]
    step = max(1, _CHUNK // n_items)
    means = np.empty((n_resamples, *scores.shape[1:]))
    for start in range(0, n_resamples, step):
        stop = min(start + step, n_resamples)
        drawn = rng.integers(0, n_items, size=(stop - start, n_items), dtype=np.int32)
        means[start:stop] = scores[drawn].mean(axis=1)
    return means


def interval(samples: np.ndarray) -> list[float]:
    """[low, high]: the 2.5 % and 97.5 % points of float[n_resamples]."""
    return [float(x) for x in np.percentile(samples, (2.5, 97.5))]


def summarise(
    f1: Sequence[float], em: Sequence[float], *, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> dict[str, object]:
    """Percentages of a set of items with their 95 % intervals.

    Args:
      f1, em: float[n_items] in [0, 1]; of equal length.
      n_resamples: bootstrap resamples.
      seed: the same seed gives the same interval.

    Returns:
      ``{"n", "f1", "em", "ci95": {"f1": [low, high], "em": [low, high]}}`` in percent; None for the figures of an
      empty set.
    """
    if len(f1) != len(em):
        raise ValueError(f"f1 and em must score the same items: got {len(f1)} and {len(em)}")
    if not len(f1):
        return {"n": 0, "f1": None, "em": None, "ci95": {"f1": None, "em": None}}
    scores = 100.0 * np.stack([np.asarray(f1, np.float64), np.asarray(em, np.float64)], axis=1)
    means = bootstrap_means(scores, n_resamples=n_resamples, rng=np.random.default_rng(seed))
    centre = scores.mean(axis=0)
    return {
        "n": len(scores),
        "f1": float(centre[0]),
        "em": float(centre[1]),
        "ci95": {"f1": interval(means[:, 0]), "em": interval(means[:, 1])},
    }


def by_group(
    f1: Sequence[float], em: Sequence[float], splits: Sequence[str], groups: Sequence[Hashable]
) -> tuple[list[float], list[float], list[str]]:
    """One entry a group in place of one an item: the means of its items, whose errors are not independent.

    HR-Bench asks each question four times, with its options in turn; its figure is the mean over the four, which is the
    mean over the questions of these means.

    Args:
      f1, em, splits: as in :func:`by_split`; items of one group are of one split.
      groups: the group of each item.

    >>> by_group([1.0, 0.0, 1.0], [1.0, 0.0, 1.0], ["", "", ""], ["q1", "q1", "q2"])
    ([0.5, 1.0], [0.5, 1.0], ['', ''])
    """
    members: dict[Hashable, list[int]] = {}
    for place, group in enumerate(groups):
        members.setdefault(group, []).append(place)
    means = [[float(np.mean([scores[i] for i in places])) for places in members.values()] for scores in (f1, em)]
    return means[0], means[1], [splits[places[0]] for places in members.values()]


def by_split(
    f1: Sequence[float], em: Sequence[float], splits: Sequence[str], *, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> dict[str, dict[str, object]]:
    """:func:`summarise` for ``simple``, ``hard`` and ``avg`` (all items, the paper's average).

    Args:
      f1, em: float[n_items] in [0, 1].
      splits: ``simple`` or ``hard`` for each item.
    """
    parts = {}
    for name in ("simple", "hard", "avg"):
        keep = [i for i, split in enumerate(splits) if name in ("avg", split)]
        parts[name] = summarise([f1[i] for i in keep], [em[i] for i in keep], n_resamples=n_resamples, seed=seed)
    return parts


def _deltas(pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> tuple[list[np.ndarray], list[float]]:
    """(differences of each item, mean before) of every run, in points of a percent; checks the pairs."""
    if not pairs:
        raise ValueError("pairs must hold at least one (before, after) run: got none")
    deltas, befores = [], []
    for run, (before, after) in enumerate(pairs):
        before, after = np.asarray(before, np.float64), np.asarray(after, np.float64)
        if before.shape != after.shape or before.ndim != 1 or not before.size:
            raise ValueError(
                f"before and after must be one score an item, of the same items: got {before.shape} and "
                f"{after.shape} in run {run}"
            )
        deltas.append(100.0 * (after - before))
        befores.append(100.0 * before.mean())
    return deltas, befores


def paired_delta(
    pairs: Sequence[tuple[Sequence[float], Sequence[float]]],
    *,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
    resample_runs: bool = True,
) -> dict[str, object]:
    """What a change gained, in points of a percent: mean over runs of mean(after - before), with its interval.

    Args:
      pairs: one (before, after) a run (seed); float[n_items] in [0, 1] each, item i the same task in both.
      n_resamples: bootstrap resamples.
      seed: of the bootstrap.
      resample_runs: with more than one run draw runs with replacement, then items within each drawn run, so that
        the interval also covers the spread between seeds. False takes the runs as fixed.

    Returns:
      ``{"n_runs", "n", "before", "after", "delta", "ci95": [low, high], "per_run": [delta, ...]}`` in percent;
      ``n`` counts the items of all runs.

    Raises:
      ValueError: no run, or a pair that does not match item by item.

    >>> paired_delta([([0, 0, 1, 1], [1, 0, 1, 1])])["delta"]  # 100 (1 + 0 + 0 + 0) / 4
    25.0
    """
    deltas, befores = _deltas(pairs)
    rng = np.random.default_rng(seed)
    n_runs = len(deltas)
    # own resamples for every place of the drawn runs: a run drawn twice is resampled twice
    places = [
        np.stack([bootstrap_means(d, n_resamples=n_resamples, rng=rng) for d in deltas], axis=1) for _ in range(n_runs)
    ]
    samples = np.zeros(n_resamples)
    for place, means in enumerate(places):
        drawn = np.full(n_resamples, place)
        if resample_runs:
            drawn = rng.integers(0, n_runs, size=n_resamples)
        samples += means[np.arange(n_resamples), drawn] / n_runs
    per_run = [float(d.mean()) for d in deltas]
    delta, before = float(np.mean(per_run)), float(np.mean(befores))
    return {
        "n_runs": n_runs,
        "n": sum(len(d) for d in deltas),
        "before": before,
        "after": before + delta,
        "delta": delta,
        "ci95": interval(samples),
        "per_run": per_run,
    }
