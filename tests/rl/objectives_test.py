"""The policy loss and the warm start's likelihood."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arft_jax.rl import objectives

B, T = 6, 9
OPTIONS = dict(epsilon_low=0.2, epsilon_high=0.28, beta=0.04)


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def batch(seed=0):
    rng = np.random.default_rng(seed)
    old = -rng.random((B, T)) * 3
    mask = rng.random((B, T)) < 0.6
    mask[2] = False  # a row without a token
    mask[0, :2] = True
    return dict(
        logps=(old + rng.normal(0, 0.4, (B, T))).astype(np.float32),
        old_logps=old.astype(np.float32),
        advantages=rng.normal(size=B).astype(np.float32),
        loss_mask=mask,
        ref_logps=(old + rng.normal(0, 0.3, (B, T))).astype(np.float32),
        weights=(0.5 + rng.random((B, T))).astype(np.float32),
    )


def device(arrays):
    return {k: jnp.asarray(v) for k, v in arrays.items()}


def oracle(x, aggregation, epsilon_low, epsilon_high, beta):
    """The definitions, one token at a time, in float64."""
    rows, clipped, ratios, kls, refs = [], 0, [], [], []
    for b in range(B):
        losses = []
        for t in range(T):
            if not x["loss_mask"][b, t]:
                continue
            logp, old, ref = (float(x[k][b, t]) for k in ("logps", "old_logps", "ref_logps"))
            ratio, gain = np.exp(logp - old), float(x["advantages"][b])
            bounded = min(max(ratio, 1 - epsilon_low), 1 + epsilon_high)
            kl = np.exp(ref - logp) - (ref - logp) - 1
            losses.append(-float(x["weights"][b, t]) * min(ratio * gain, bounded * gain) + beta * kl)
            clipped += bounded * gain < ratio * gain
            ratios.append(ratio)
            kls.append(ratio - 1 - (logp - old))
            refs.append(kl)
        rows.append(losses)
    flat = [v for row in rows for v in row]
    loss = np.mean(flat) if aggregation == "token" else np.mean([np.mean(row) for row in rows if row])
    stats = {
        "clip_frac": clipped / len(flat),
        "ratio_mean": np.mean(ratios),
        "ratio_max": np.max(ratios),
        "approx_kl": np.mean(kls),
        "kl_ref": np.mean(refs),
        "n_tokens": len(flat),
    }
    return loss, stats


@pytest.mark.parametrize("aggregation", objectives.AGGREGATIONS)
def test_policy_loss_equals_the_loop_over_tokens(aggregation):
    x = batch()
    loss, stats = jax.jit(lambda **a: objectives.policy_loss(**a, **OPTIONS, aggregation=aggregation))(**device(x))
    want_loss, want_stats = oracle(x, aggregation, **OPTIONS)
    np.testing.assert_allclose(loss, want_loss, rtol=2e-6, atol=1e-6)  # float32 sums
    assert 0 < want_stats["clip_frac"] < 1
    assert stats.keys() == want_stats.keys()
    for name, want in want_stats.items():
        np.testing.assert_allclose(stats[name], want, rtol=1e-5, atol=1e-6, err_msg=name)


def test_hand_values_of_one_token():
    def loss(ratio, gain, **options):
        one = jnp.full((1, 1), np.log(ratio), jnp.float32)
        return float(
            objectives.policy_loss(
                one, jnp.zeros((1, 1)), jnp.full(1, gain, jnp.float32), jnp.ones((1, 1), bool), **options
            )[0]
        )

    bounds = dict(epsilon_low=0.2, epsilon_high=0.28)
    assert loss(1.5, 1.0, **bounds) == pytest.approx(-1.28)  # min(1.5, 1.28)
    assert loss(1.5, -1.0, **bounds) == pytest.approx(1.5)  # min(-1.5, -1.28): the worse counts
    assert loss(0.5, 1.0, **bounds) == pytest.approx(-0.5)
    assert loss(0.5, -1.0, **bounds) == pytest.approx(0.8)
    assert loss(1.5, 1.0, epsilon_low=None, epsilon_high=None) == pytest.approx(-1.5)
    kl = np.exp(np.log(0.5)) - np.log(0.5) - 1  # ref 0.5, policy 1: 0.193147
    one = jnp.zeros((1, 1))
    got, stats = objectives.policy_loss(
        one, one, jnp.zeros(1), jnp.ones((1, 1), bool), beta=0.1, ref_logps=jnp.full((1, 1), np.log(0.5), jnp.float32)
    )
    assert float(got) == pytest.approx(0.1 * kl) and float(stats["kl_ref"]) == pytest.approx(0.193147, abs=1e-6)


def test_aggregations_differ_by_length_as_stated():
    values, mask = jnp.asarray([[1.0, 3.0], [5.0, 0.0]]), jnp.asarray([[True, True], [True, False]])
    assert float(objectives.aggregate_loss(values, mask, "token")) == 3.0  # 9 / 3
    assert float(objectives.aggregate_loss(values, mask, "sequence")) == 3.5  # (2 + 5) / 2


def test_clipped_token_carries_no_gradient_and_a_free_one_does():
    def loss(logps):
        return objectives.policy_loss(
            logps, jnp.zeros((1, 2)), jnp.ones(1), jnp.ones((1, 2), bool), epsilon_low=0.2, epsilon_high=0.2
        )[0]

    grad = jax.grad(loss)(jnp.log(jnp.asarray([[1.5, 1.1]])))
    np.testing.assert_allclose(grad, [[0.0, -1.1 / 2]], rtol=1e-6)


def test_without_old_logps_the_gradient_is_the_policy_gradient():
    x = batch()
    mask, gain = x["loss_mask"], x["advantages"]

    def loss(logps):
        return objectives.policy_loss(logps, None, jnp.asarray(gain), jnp.asarray(mask), aggregation="sequence")[0]

    tokens = np.maximum(mask.sum(1, keepdims=True), 1)
    want = -gain[:, None] * mask / tokens / (mask.any(1).sum())  # d/dlogp of A exp(logp - stop(logp)) = A
    np.testing.assert_allclose(jax.grad(loss)(jnp.asarray(x["logps"])), want, rtol=1e-6)


@pytest.mark.parametrize("aggregation", objectives.AGGREGATIONS)
def test_observation_tokens_carry_no_gradient(aggregation):
    x = batch()

    def loss(logps):
        return objectives.policy_loss(
            logps, **{k: v for k, v in device(x).items() if k != "logps"}, **OPTIONS, aggregation=aggregation
        )[0]

    grad = np.asarray(jax.grad(loss)(jnp.asarray(x["logps"])))
    assert (grad[~x["loss_mask"]] == 0.0).all()
    assert (grad[x["loss_mask"]] != 0.0).mean() > 0.5


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf])
def test_what_stands_off_the_mask_is_not_read(garbage):
    x = batch()
    spoilt = dict(x)
    for name in ("logps", "old_logps", "ref_logps", "weights"):
        spoilt[name] = np.where(x["loss_mask"], x[name], np.float32(garbage))

    def run(logps, arrays):
        return objectives.policy_loss(logps, **{k: v for k, v in arrays.items() if k != "logps"}, **OPTIONS)

    compute = jax.value_and_grad(run, has_aux=True)
    clean, dirty = (compute(device(a)["logps"], device(a)) for a in (x, spoilt))
    jax.tree.map(np.testing.assert_array_equal, clean, dirty)


@pytest.mark.parametrize("aggregation", objectives.AGGREGATIONS)
def test_masked_equals_compressed(aggregation):
    x = batch()
    want, _ = objectives.policy_loss(**device(x), **OPTIONS, aggregation=aggregation)
    total, n_tokens, n_rows = 0.0, int(x["loss_mask"].sum()), int(x["loss_mask"].any(1).sum())
    for b in range(B):
        keep = x["loss_mask"][b]
        if not keep.any():
            continue
        row = {k: v[b : b + 1] if k == "advantages" else v[b : b + 1][:, keep] for k, v in x.items()}
        loss, _ = objectives.policy_loss(
            **device(row), **OPTIONS, aggregation=aggregation, n_tokens=n_tokens, n_rows=n_rows
        )
        total += float(loss)
    np.testing.assert_allclose(total, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("aggregation", objectives.AGGREGATIONS)
def test_microbatches_add_up_to_the_full_batch(aggregation):
    x = batch()
    options = dict(
        OPTIONS,
        aggregation=aggregation,
        n_tokens=jnp.asarray(x["loss_mask"].sum(), jnp.int32),
        n_rows=jnp.asarray(x["loss_mask"].any(1).sum(), jnp.int32),
    )

    def run(logps, arrays):
        return objectives.policy_loss(logps, **{k: v for k, v in arrays.items() if k != "logps"}, **options)

    compute = jax.value_and_grad(run, has_aux=True)
    (loss, stats), grad = compute(device(x)["logps"], device(x))
    parts = [
        compute(d["logps"], d) for d in (device({k: v[s] for k, v in x.items()}) for s in (slice(0, 2), slice(2, 6)))
    ]
    np.testing.assert_allclose(sum(float(p[0][0]) for p in parts), loss, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.concatenate([p[1] for p in parts]), grad, rtol=1e-5, atol=1e-7)
    for name, value in stats.items():
        values = [float(p[0][1][name]) for p in parts]
        np.testing.assert_allclose(max(values) if name == "ratio_max" else sum(values), value, rtol=1e-5, atol=1e-6)


def test_an_empty_mask_gives_zero_and_no_nan():
    x = device(batch()) | {"loss_mask": jnp.zeros((B, T), bool)}
    loss, stats = objectives.policy_loss(**x, **OPTIONS)
    assert float(loss) == 0.0 and all(np.isfinite(float(v)) for v in stats.values())


def test_a_runaway_ratio_stays_finite():
    logps = jnp.asarray([[500.0]])

    def loss(logps):
        return objectives.policy_loss(logps, jnp.zeros((1, 1)), -jnp.ones(1), jnp.ones((1, 1), bool))[0]

    assert np.isfinite(loss(logps)) and np.isfinite(jax.grad(loss)(logps)).all()


def test_weights_scale_the_policy_term_and_are_constants():
    x = device(batch())
    once, _ = objectives.policy_loss(**x)
    twice, _ = objectives.policy_loss(**(x | {"weights": 2.0 * x["weights"]}))
    np.testing.assert_allclose(twice, 2.0 * once, rtol=1e-6)
    grad = jax.grad(lambda w: objectives.policy_loss(**(x | {"weights": w}))[0])(x["weights"])
    assert (np.asarray(grad) == 0.0).all()


def test_sft_loss_is_the_mean_over_masked_tokens():
    logps, mask = jnp.asarray([[-1.0, -9.0], [-3.0, -5.0]]), jnp.asarray([[True, False], [True, True]])
    assert float(objectives.sft_loss(logps, mask)) == 3.0  # (1 + 3 + 5) / 3
    grad = jax.grad(lambda x: objectives.sft_loss(x, mask, n_tokens=6))(logps)
    np.testing.assert_allclose(grad, [[-1 / 6, 0.0], [-1 / 6, -1 / 6]], rtol=1e-6)


def test_bad_arguments_are_errors():
    x = device(batch())
    with pytest.raises(ValueError, match="ref_logps must be given where beta is not 0: got beta=0.1"):
        objectives.policy_loss(**(x | {"ref_logps": None}), beta=0.1)
    with pytest.raises(ValueError, match="aggregation must be one of token, sequence: got 'mean'"):
        objectives.policy_loss(**x, aggregation="mean")
    with pytest.raises(ValueError, match="loss_mask must be bool"):
        objectives.policy_loss(**(x | {"loss_mask": jnp.ones((B, T))}))
    with pytest.raises(ValueError, match="advantages must be float32"):
        objectives.policy_loss(**(x | {"advantages": jnp.ones(B + 1)}))
    with pytest.raises(ValueError, match="old_logps must be of loss_mask's shape"):
        objectives.policy_loss(**(x | {"old_logps": jnp.ones((B, T + 1))}))
