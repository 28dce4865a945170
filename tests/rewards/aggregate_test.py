"""Bootstrap intervals and paired differences."""

import numpy as np
import pytest

from arft_jax.rewards import aggregate


def test_interval_agrees_with_the_normal_approximation():
    em = (np.arange(400) < 160).astype(float)  # p = 0.4
    part = aggregate.summarise(em, em)
    half = 196.0 * np.sqrt(0.4 * 0.6 / 400)  # 4.8 points
    low, high = part["ci95"]["em"]
    assert part["em"] == pytest.approx(40.0)
    assert (40.0 - low, high - 40.0) == pytest.approx((half, half), abs=0.6)


def test_same_seed_gives_the_same_interval_and_another_seed_another():
    scores = np.random.default_rng(1).random(50)
    first, again, other = (aggregate.summarise(scores, scores, seed=s)["ci95"] for s in (3, 3, 4))
    assert first == again != other


def test_chunks_of_resamples_change_no_draw(monkeypatch):
    scores = np.random.default_rng(1).random((7, 2))
    whole = aggregate.bootstrap_means(scores, n_resamples=100, rng=np.random.default_rng(0))
    monkeypatch.setattr(aggregate, "_CHUNK", 8 * 7)  # even counts: int32 draws are made in pairs
    pieces = aggregate.bootstrap_means(scores, n_resamples=100, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(whole, pieces)


def test_splits_are_means_of_their_items_and_avg_of_all():
    parts = aggregate.by_split([1, 0, 0, 0], [1, 0, 0, 0], ["simple", "hard", "hard", "hard"])
    assert [parts[k]["f1"] for k in ("simple", "hard", "avg")] == [100.0, 0.0, 25.0]
    assert [parts[k]["n"] for k in ("simple", "hard", "avg")] == [1, 3, 4]


def test_empty_split_has_no_figures():
    assert aggregate.by_split([1.0], [1.0], ["simple"])["hard"]["f1"] is None


def test_paired_interval_is_narrower_than_the_difference_of_unpaired():
    rng = np.random.default_rng(0)
    before = (rng.random(200) < 0.5).astype(float)
    after = np.maximum(before, (np.arange(200) < 20).astype(float))  # nothing lost, some won
    result = aggregate.paired_delta([(before, after)])
    low, high = result["ci95"]
    unpaired = 2 * 196 * np.sqrt(0.25 / 200 * 2)
    assert 0 < low < result["delta"] < high
    assert high - low < 0.6 * unpaired
    assert result["after"] == pytest.approx(100 * after.mean())


def test_delta_is_the_mean_over_runs_not_over_items():
    runs = [([0.0] * 2, [1.0] * 2), ([0.0] * 8, [0.0] * 8)]
    result = aggregate.paired_delta(runs)
    assert result["delta"] == 50.0 and result["per_run"] == [100.0, 0.0]


def test_drawing_runs_widens_the_interval_by_the_spread_between_them():
    runs = [([0.0] * 50, [gain] * 50) for gain in (0.0, 0.3, 0.6)]  # no spread within a run
    fixed = aggregate.paired_delta(runs, resample_runs=False)["ci95"]
    drawn = aggregate.paired_delta(runs)["ci95"]
    assert fixed == pytest.approx([30.0, 30.0])
    assert drawn == pytest.approx([0.0, 60.0])  # all three places may draw the worst or the best: 1/27 > 2.5 %


def test_pairs_that_do_not_match_are_an_error():
    with pytest.raises(ValueError, match=r"got \(2,\) and \(3,\) in run 0"):
        aggregate.paired_delta([([0, 1], [0, 1, 1])])
    with pytest.raises(ValueError, match="at least one"):
        aggregate.paired_delta([])
