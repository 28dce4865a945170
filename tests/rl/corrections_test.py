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


def test_token_weights_are_capped_ratios():
    weights = corrections.importance_weights(SAMPLER, TRAINER, MASK, cap=2.0)
    np.testing.assert_allclose(weights, [[1.5, 2.0, 0.5, 1.0]], rtol=1e-6)  # 4.5 is cut at 2; 1 off the mask


def test_sequence_weights_are_the_capped_ratio_of_the_row():
    weights = corrections.importance_weights(SAMPLER, TRAINER, MASK, cap=5.0, level="sequence")
    np.testing.assert_allclose(weights, [[3.375, 3.375, 3.375, 1.0]], rtol=1e-5)  # 1.5 * 4.5 * 0.5
    weights = corrections.importance_weights(SAMPLER, TRAINER, MASK, cap=2.0, level="sequence")
    np.testing.assert_allclose(weights, [[2.0, 2.0, 2.0, 1.0]])


def test_weight_stats_count_what_was_cut():
    weights = corrections.importance_weights(SAMPLER, TRAINER, MASK, cap=2.0)
    stats = corrections.weight_stats(weights, MASK, 2.0)
    np.testing.assert_allclose(stats["importance_mean"], (1.5 + 2.0 + 0.5) / 3, rtol=1e-6)
    np.testing.assert_allclose(stats["importance_capped_frac"], 1 / 3, rtol=1e-6)
    empty = corrections.weight_stats(weights, jnp.zeros_like(MASK), 2.0)
    assert (float(empty["importance_mean"]), float(empty["importance_capped_frac"])) == (1.0, 0.0)


def test_weights_are_one_where_sampler_and_trainer_agree():
    for level in IMPORTANCE_LEVELS:
        assert (np.asarray(corrections.importance_weights(SAMPLER, SAMPLER, MASK, level=level)) == 1.0).all()


def test_weights_carry_no_gradient():
    grad = jax.grad(lambda x: corrections.importance_weights(SAMPLER, x, MASK).sum())(TRAINER)
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
    tokens = corrections.importance_weights(SAMPLER, trainer, mask, cap=2.0)
    np.testing.assert_allclose(tokens, [[1.5, 2.0, np.exp(-20), 1.0]], rtol=1e-6)
    row = corrections.importance_weights(SAMPLER, trainer, mask, cap=2.0, level="sequence")
    np.testing.assert_allclose(row, [[1.5 * 4.5 * np.exp(-20)] * 3 + [1.0]], rtol=1e-5)


def test_what_stands_off_the_mask_is_not_read():
    spoilt = jnp.where(MASK, SAMPLER, jnp.nan)
    for name, value in corrections.gap_stats(spoilt, TRAINER, MASK).items():
        assert float(value) == float(corrections.gap_stats(SAMPLER, TRAINER, MASK)[name])
    assert np.isfinite(corrections.importance_weights(spoilt, TRAINER, MASK)).all()


def test_an_empty_mask_has_no_gap():
    stats = corrections.gap_stats(SAMPLER, TRAINER, jnp.zeros_like(MASK))
    assert [float(v) for v in stats.values()] == [0.0, 0.0, 1.0, 0.0]


def test_bad_arguments_are_errors():
    with pytest.raises(ValueError, match="cap must be above 0: got 0"):
        corrections.importance_weights(SAMPLER, TRAINER, MASK, cap=0)
    with pytest.raises(ValueError, match="level must be one of"):
        corrections.importance_weights(SAMPLER, TRAINER, MASK, level="batch")
    with pytest.raises(ValueError, match="old_logps must be of loss_mask's shape"):
        corrections.gap_stats(SAMPLER, TRAINER[:, :2], MASK)
