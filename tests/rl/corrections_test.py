"""Sampler/trainer mismatch: its size and its weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arft_jax.rl import corrections
from arft_jax.sampling import pick
from arft_jax.words import IMPORTANCE_LEVELS


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


SAMPLER = jnp.log(jnp.asarray([[0.2, 0.2, 0.4, 0.5]]))
TRAINER = jnp.log(jnp.asarray([[0.3, 0.9, 0.2, 0.1]]))
MASK = jnp.asarray([[True, True, True, False]])


def weights_of(*args, **kwargs):
    return corrections.importance_weights(*args, **kwargs)[0]


def test_token_weights_are_capped_ratios():
    weights = weights_of(SAMPLER, TRAINER, MASK, cap=2.0)
    np.testing.assert_allclose(weights, [[1.5, 2.0, 0.5, 1.0]], rtol=1e-6)  # 4.5 is cut at 2; 1 off the mask


def test_sequence_weights_are_the_capped_ratio_of_the_row():
    weights = weights_of(SAMPLER, TRAINER, MASK, cap=5.0, level="sequence")
    np.testing.assert_allclose(weights, [[3.375, 3.375, 3.375, 1.0]], rtol=1e-5)  # 1.5 * 4.5 * 0.5
    weights = weights_of(SAMPLER, TRAINER, MASK, cap=2.0, level="sequence")
    np.testing.assert_allclose(weights, [[2.0, 2.0, 2.0, 1.0]])


def test_weight_stats_count_what_was_cut():
    weights = corrections.importance_weights(SAMPLER, TRAINER, MASK, cap=2.0)
    stats = corrections.weight_stats(*weights, MASK)
    np.testing.assert_allclose(stats["importance_mean"], (1.5 + 2.0 + 0.5) / 3, rtol=1e-6)
    np.testing.assert_allclose(stats["importance_capped_frac"], 1 / 3, rtol=1e-6)
    half = corrections.weight_stats(*weights, MASK, n_tokens=6)  # 3 of an update's 6 tokens
    assert {name: float(v) / 2 for name, v in stats.items()} == {n: pytest.approx(float(v)) for n, v in half.items()}
    none = jnp.zeros_like(MASK)
    empty = corrections.weight_stats(*corrections.importance_weights(SAMPLER, TRAINER, none), none)
    assert (float(empty["importance_mean"]), float(empty["importance_capped_frac"])) == (0.0, 0.0)


def test_a_floor_lifts_weights_and_a_mask_drops_what_lies_beyond_both():
    bounds = dict(floor=0.75, cap=2.0)
    weights, is_beyond = corrections.importance_weights(SAMPLER, TRAINER, MASK, **bounds)
    np.testing.assert_allclose(weights, [[1.5, 2.0, 0.75, 1.0]], rtol=1e-6)
    np.testing.assert_array_equal(is_beyond, [[False, True, True, False]])
    weights, is_beyond = corrections.importance_weights(SAMPLER, TRAINER, MASK, mode="mask", **bounds)
    np.testing.assert_allclose(weights, [[1.5, 0.0, 0.0, 1.0]], rtol=1e-6)
    np.testing.assert_array_equal(is_beyond, [[False, True, True, False]])
    np.testing.assert_allclose(weights_of(SAMPLER, TRAINER, MASK, mode="mask"), [[1.5, 0.0, 0.5, 1.0]], rtol=1e-6)
    row = weights_of(SAMPLER, TRAINER, MASK, mode="mask", level="sequence", cap=5.0)
    np.testing.assert_allclose(row, [[3.375, 3.375, 3.375, 1.0]], rtol=1e-5)
    assert (np.asarray(weights_of(SAMPLER, TRAINER, MASK, mode="mask", level="sequence")) == [[0, 0, 0, 1]]).all()


def test_packed_trajectories_have_a_ratio_each():
    ids = jnp.asarray([[0, 1, 1, 1]], jnp.int32)
    weights = weights_of(SAMPLER, TRAINER, MASK, cap=5.0, level="sequence", segment_ids=ids)
    np.testing.assert_allclose(weights, [[1.5, 2.25, 2.25, 1.0]], rtol=1e-5)  # 1.5 | 4.5 * 0.5


def test_weights_are_one_where_sampler_and_trainer_agree():
    for level in IMPORTANCE_LEVELS:
        assert (np.asarray(weights_of(SAMPLER, SAMPLER, MASK, level=level)) == 1.0).all()


def test_weights_carry_no_gradient():
    grad = jax.grad(lambda x: weights_of(SAMPLER, x, MASK).sum())(TRAINER)
    assert (np.asarray(grad) == 0.0).all()


def test_gap_is_over_masked_tokens_only():
    stats = corrections.gap_stats(SAMPLER, TRAINER, MASK)
    gaps = np.abs(np.log([1.5, 4.5, 0.5]))
    assert float(stats["gap_mean"]) == pytest.approx(gaps.mean(), rel=1e-5)
    assert float(stats["gap_max"]) == pytest.approx(gaps.max(), rel=1e-5)
    assert float(stats["gap_ratio_mean"]) == pytest.approx(6.5 / 3, rel=1e-5)


def test_a_token_that_newer_weights_no_longer_sample_is_cut_at_20_nats_and_counted():
    allowed = jnp.ones(4, bool)
    new = pick.log_probs(jnp.asarray([3.0, 2.0, 1.0, 0.0]), allowed, top_k=2)
    gone, mask = new[2].reshape(1, 1), jnp.asarray([[True, True, True, False]])
    assert float(gone[0, 0]) < -1e29
    trainer = jnp.concatenate([TRAINER[:, :2], gone, TRAINER[:, 3:]], axis=1)
    stats = corrections.gap_stats(SAMPLER, trainer, mask)
    np.testing.assert_allclose(stats["gap_mean"], (np.log(1.5) + np.log(4.5) + 20) / 3, rtol=1e-6)
    np.testing.assert_allclose(stats["gap_ratio_mean"], (1.5 + 4.5) / 3, rtol=1e-6)
    assert float(stats["gap_max"]) == 20 and float(stats["gap_cut_frac"]) == pytest.approx(1 / 3)
    assert float(corrections.gap_stats(SAMPLER, TRAINER, MASK)["gap_cut_frac"]) == 0
    tokens = weights_of(SAMPLER, trainer, mask, cap=2.0)
    np.testing.assert_allclose(tokens, [[1.5, 2.0, np.exp(-20), 1.0]], rtol=1e-6)
    row = weights_of(SAMPLER, trainer, mask, cap=2.0, level="sequence")
    np.testing.assert_allclose(row, [[1.5 * 4.5 * np.exp(-20)] * 3 + [1.0]], rtol=1e-5)


def test_what_stands_off_the_mask_is_not_read():
    spoilt = jnp.where(MASK, SAMPLER, jnp.nan)
    for name, value in corrections.gap_stats(spoilt, TRAINER, MASK).items():
        assert float(value) == float(corrections.gap_stats(SAMPLER, TRAINER, MASK)[name])
    assert np.isfinite(weights_of(spoilt, TRAINER, MASK)).all()


def test_an_empty_mask_has_no_gap():
    stats = corrections.gap_stats(SAMPLER, TRAINER, jnp.zeros_like(MASK))
    assert [float(v) for v in stats.values()] == [0.0] * 4


def test_bad_arguments_are_errors():
    for floor, cap in ((0.0, 0.0), (2.0, 2.0), (-0.1, 2.0)):
        with pytest.raises(ValueError, match=f"at least 0 and below cap: got floor={floor}, cap={cap}"):
            corrections.importance_weights(SAMPLER, TRAINER, MASK, floor=floor, cap=cap)
    with pytest.raises(ValueError, match="mode must be one of truncate, mask: got 'drop'"):
        corrections.importance_weights(SAMPLER, TRAINER, MASK, mode="drop")
    with pytest.raises(ValueError, match="level must be one of"):
        corrections.importance_weights(SAMPLER, TRAINER, MASK, level="batch")
    with pytest.raises(ValueError, match="old_logps must be of loss_mask's shape"):
        corrections.gap_stats(SAMPLER, TRAINER[:, :2], MASK)
