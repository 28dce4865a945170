"""Group-relative advantages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arft_jax.objective_keys import NAMED
from arft_jax.rl import advantages
from arft_jax.rl.advantages import AdvantageSettings


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def oracle(rewards, group_size, valid, settings, n_tokens, changes=None):
    """The advantage of every loss token, [B] lists, a group and a token at a time in float64."""
    n_rows, by_return = len(rewards), settings.baseline == "none" and changes is not None
    whole = [sum(c[:1]) if changes is not None and not by_return else 0.0 for c in (changes or [[]] * n_rows)]
    centred = np.zeros(n_rows)
    divisor = np.ones(n_rows)
    for start in range(0, n_rows, group_size):
        rows = [i for i in range(start, start + group_size) if valid[i]]
        group = {i: float(rewards[i]) + whole[i] for i in rows}
        for i in rows:
            others = [group[j] for j in rows if j != i]
            if settings.baseline == "none":
                centred[i] = group[i]
            elif others:
                base = list(group.values()) if settings.baseline == "group" else others
                centred[i] = group[i] - np.mean(base)
            if settings.scale == "std" and len(rows) > 1:
                divisor[i] = np.std(list(group.values()), ddof=1) + settings.epsilon
    tokens = [[centred[i] + (changes[i][t] if by_return else 0.0) for t in range(n_tokens[i])] for i in range(n_rows)]
    if settings.scale == "batch":
        flat = [v for i in range(n_rows) if valid[i] for v in tokens[i]]
        mean, deviation = np.mean(flat), np.std(flat)
        return [[(v - mean) / (deviation + settings.epsilon) for v in row] for row in tokens]
    return [[v / divisor[i] for v in row] for i, row in enumerate(tokens)]


def compute(rewards, group_size, valid=None, n_tokens=None, change=None, **changes):
    valid = np.ones(len(rewards), bool) if valid is None else np.asarray(valid)
    n_tokens = jnp.ones(len(rewards), jnp.int32) if n_tokens is None else jnp.asarray(n_tokens, jnp.int32)
    found, stats = advantages.step_advantages(
        jnp.asarray(rewards, jnp.float32), jnp.asarray(valid), settings=AdvantageSettings(**changes),
        group_size=group_size, n_tokens=n_tokens, change=change,
    )  # fmt: skip
    assert found.rows.dtype == found.slope.dtype == jnp.float32
    assert float(found.slope) == 0.0 or change is not None
    return np.asarray(found.rows), {k: float(v) for k, v in stats.items()}


WAYS = sorted({(keys.baseline, keys.scale_advantages) for keys in NAMED.values()} | {("none", "none"),
               ("leave_one_out", "batch")})  # fmt: skip


def a_step(seed=0):
    """Six groups of eight: one without variance, one of infrastructure failures, one of which one row is left."""
    rng = np.random.default_rng(seed)
    rewards = rng.choice([0.0, 0.5, 1.0, 2.0], size=48).astype(np.float32)
    rewards[:8] = 0.7
    valid = rng.random(48) < 0.8
    valid[8:16] = False
    valid[16:24] = np.arange(8) == 3
    rewards[8:16] = np.nan
    return rewards, valid, rng.integers(1, 9, 48), rng.normal(0.2, 0.5, (48, 12)).astype(np.float32)


@pytest.mark.parametrize(("baseline", "scale"), WAYS)
def test_advantages_equal_the_loop_over_groups(baseline, scale):
    rewards, valid, n_tokens, _ = a_step()
    settings = AdvantageSettings(baseline, scale)
    got, _ = compute(rewards, 8, valid, n_tokens, baseline=baseline, scale=scale)
    want = [row[0] for row in oracle(np.where(valid, rewards, 0.0), 8, valid, settings, n_tokens)]
    np.testing.assert_allclose(got, np.where(valid, want, 0.0), atol=2e-6)
    assert np.abs(got).max() > 0.5 and (got[~valid] == 0).all()


@pytest.mark.parametrize(("baseline", "scale"), WAYS)
def test_advantages_with_the_kl_in_the_reward_equal_the_loop_over_tokens(baseline, scale):
    rewards, valid, n_tokens, kl = a_step()
    mask = np.zeros(kl.shape, bool)
    for i, n in enumerate(n_tokens):
        mask[i, np.sort(np.random.default_rng(i).permutation(12)[:n])] = True  # an observation between turns
    settings, beta = AdvantageSettings(baseline, scale), 0.3
    spoilt = jnp.asarray(np.where(mask, kl, np.nan).astype(np.float32))
    changes, change = jax.vmap(lambda k, m: advantages.reward_change(k, m, beta))(spoilt, jnp.asarray(mask))
    found, stats = jax.jit(advantages.step_advantages, static_argnames=("settings", "group_size"))(
        jnp.asarray(rewards), jnp.asarray(valid), settings=settings, group_size=8, change=change,
        n_tokens=jnp.asarray(n_tokens, jnp.int32),
    )  # fmt: skip
    got = np.asarray(advantages.by_token(found, changes, jnp.asarray(mask & valid[:, None])))
    own = [kl[i][mask[i]].astype(np.float64) for i in range(48)]
    after = [[-beta * sum(k[t:]) for t in range(len(k))] for k in own]
    want = oracle(np.where(valid, rewards, 0.0), 8, valid, settings, n_tokens, after)
    for i in np.flatnonzero(valid):
        np.testing.assert_allclose(got[i][mask[i]], want[i], atol=4e-6)
    assert (got[~mask] == 0).all() and (got[~valid] == 0).all()
    assert stats["reward_kl_mean"] == pytest.approx(np.mean([after[i][0] for i in np.flatnonzero(valid)]), abs=1e-6)
    assert stats["zero_variance_frac"] == compute(rewards, 8, valid)[1]["zero_variance_frac"]  # of the task's reward


def test_hand_values_of_the_baselines():
    got, _ = compute([1.0, 0.0, 0.0], 3, baseline="leave_one_out", scale="none")
    np.testing.assert_allclose(got, [1.0, -0.5, -0.5], rtol=1e-6)
    got, _ = compute([3.0, 1.0], 2, baseline="none", scale="none")
    np.testing.assert_array_equal(got, [3.0, 1.0])
    # three tokens of reward 4 and one of 0: mean 3, deviation sqrt((3 * 1 + 9) / 4) = sqrt(3)
    got, _ = compute([4.0, 0.0], 2, n_tokens=[3, 1], baseline="none", scale="batch", epsilon=0.0)
    np.testing.assert_allclose(got, [1 / 3**0.5, -(3**0.5)], rtol=1e-6)


def test_hand_values_of_a_change_of_the_reward():
    kl, mask = jnp.asarray([1.0, 2.0, 4.0]), jnp.asarray([True, False, True])
    changes, sums = advantages.reward_change(kl, mask, 1.0)
    np.testing.assert_array_equal(changes, [-5.0, 0.0, -4.0])
    assert tuple(map(float, sums)) == (-5.0, -9.0, 41.0)


@pytest.mark.parametrize("name", NAMED)
def test_rewards_that_are_all_the_same_teach_nothing(name):
    keys = NAMED[name]
    got, _ = compute([0.7] * 14, 7, n_tokens=range(1, 15), baseline=keys.baseline, scale=keys.scale_advantages)
    assert (got == 0.0).all()


@pytest.mark.parametrize("field, value", [("baseline", "leave_one_out"), ("scale", "none"), ("epsilon", 0.1)])
def test_every_setting_changes_the_advantages(field, value):
    rewards, valid, n_tokens, _ = a_step()
    base, _ = compute(rewards, 8, valid, n_tokens)
    assert np.abs(compute(rewards, 8, valid, n_tokens, **{field: value})[0] - base).max() > 0.01


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
        want = oracle([1.0, 0.0, 0.0, 0.5], 4, valid, AdvantageSettings(), [1] * 4)
        np.testing.assert_allclose(got, np.ravel(want), atol=1e-6)
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


def test_bad_arguments_are_errors():
    def refused(message, rewards, valid, group_size, **changes):
        with pytest.raises(ValueError, match=message):
            advantages.step_advantages(
                rewards, valid, settings=AdvantageSettings(**changes), group_size=group_size, n_tokens=None
            )

    ok = jnp.zeros(4), jnp.ones(4, bool), 2
    refused("rows must be a multiple of group_size: got B=24, group_size=7", jnp.zeros(24), jnp.ones(24, bool), 7)
    refused("valid must be bool", jnp.zeros(4), jnp.ones(4), 2)
    refused("scale_advantages must be one of std, batch, none: got 'rank'", *ok, scale="rank")
    refused("baseline must be one of group, leave_one_out, none: got 'mean'", *ok, baseline="mean")
    refused("n_tokens must be one a row where scale_advantages is batch: got none", *ok, scale="batch")
