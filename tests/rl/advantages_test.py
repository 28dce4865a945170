"""Group-relative advantages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arft_jax.rl.advantages import group_advantages


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def oracle(rewards, group_size, valid, epsilon, scale):
    out = np.zeros(len(rewards))
    for start in range(0, len(rewards), group_size):
        rows = [i for i in range(start, start + group_size) if valid[i]]
        if len({rewards[i] for i in rows}) < 2:
            continue
        group = np.asarray([rewards[i] for i in rows], np.float64)
        divisor = group.std(ddof=1) + epsilon if scale == "std" else 1.0
        out[rows] = (group - group.mean()) / divisor
    return out


def compute(rewards, group_size, valid=None, **kwargs):
    valid = np.ones(len(rewards), bool) if valid is None else np.asarray(valid)
    function = jax.jit(group_advantages, static_argnums=1, static_argnames=("epsilon", "scale"))
    advantages, stats = function(jnp.asarray(rewards, jnp.float32), group_size, jnp.asarray(valid), **kwargs)
    assert advantages.dtype == jnp.float32
    return np.asarray(advantages), {k: float(v) for k, v in stats.items()}


@pytest.mark.parametrize("scale", ["std", "none"])
def test_advantages_equal_the_numpy_loop(scale):
    rng = np.random.default_rng(0)
    rewards = rng.choice([0.0, 0.5, 1.0, 2.0], size=48).astype(np.float32)
    rewards[:8] = 0.7  # a group without variance
    valid = rng.random(48) < 0.8
    valid[8:16] = False  # a group of infrastructure failures
    valid[16:24] = np.arange(8) == 3  # one row left
    got, _ = compute(rewards, 8, valid, scale=scale)
    np.testing.assert_allclose(got, oracle(rewards, 8, valid, 1e-4, scale), atol=2e-6)
    assert np.abs(got).max() > 0.5


def test_deviation_is_over_n_minus_1():
    got, _ = compute([1.0, 0.0], 2, epsilon=0.0)
    np.testing.assert_allclose(got, [0.5**0.5, -(0.5**0.5)], rtol=1e-6)  # +-1 if divided by n
    got, _ = compute([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0], 8)
    np.testing.assert_allclose(got[7], 0.875 / (np.std([0] * 7 + [1], ddof=1) + 1e-4), rtol=1e-6)


def test_equal_rewards_give_exactly_zero_and_are_counted():
    got, stats = compute([0.7] * 7 + [0.1] * 7, 7)
    assert (got == 0.0).all()
    assert stats["zero_variance_frac"] == 1.0
    _, stats = compute([0.7] * 7 + [0.1] * 6 + [0.2], 7)
    assert stats["zero_variance_frac"] == 0.5


def test_what_an_invalid_row_holds_is_not_read():
    valid = [True, True, False, True]
    for garbage in (np.nan, np.inf, -5.0):
        got, stats = compute([1.0, 0.0, garbage, 0.5], 4, valid)
        np.testing.assert_allclose(got, oracle([1.0, 0.0, 0.0, 0.5], 4, valid, 1e-4, "std"), atol=1e-6)
        assert got[2] == 0.0 and stats["reward_mean"] == pytest.approx(0.5)
        assert stats["valid_frac"] == 0.75


def test_a_batch_of_our_faults_alone_is_zero_and_finite():
    got, stats = compute([np.nan] * 4, 2, [False] * 4)
    assert (got == 0.0).all() and all(np.isfinite(v) for v in stats.values())
    assert stats["zero_variance_frac"] == 0.0


def test_groups_do_not_touch_each_other():
    first = [1.0, 0.0, 0.5, 0.25]
    alone, _ = compute(first, 4)
    both, _ = compute(first + [9.0, 8.0, 0.0, 1.0], 4)
    np.testing.assert_array_equal(alone, both[:4])


def test_rows_that_fill_no_groups_are_an_error():
    with pytest.raises(ValueError, match=r"rows must be a multiple of group_size: got B=24, group_size=7"):
        group_advantages(jnp.zeros(24), 7, jnp.ones(24, bool))
    with pytest.raises(ValueError, match="valid must be bool"):
        group_advantages(jnp.zeros(4), 2, jnp.ones(4))
    with pytest.raises(ValueError, match="scale must be one of"):
        group_advantages(jnp.zeros(4), 2, jnp.ones(4, bool), scale="rank")
