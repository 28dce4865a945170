"""The policy loss and the warm start's likelihood, against loops over tokens and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arft_jax.objective_keys import NAMED
from arft_jax.rl import objectives
from arft_jax.rl.objectives import PolicySettings
from arft_jax.testing import policy_loop

B, T = 6, 9
FLOAT32 = 1e-6  # sums of some fifty terms near 1
ARRAYS = ("logps", "advantages", "old_logps", "ref_logps", "sampler_logps", "entropy")


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def settings_of(name, **changes):
    keys = NAMED[name]._asdict() | {"divisor_len": 7}
    return PolicySettings(**{field: keys[field] for field in PolicySettings._fields})._replace(**changes)


DEFAULT = PolicySettings(beta=0.04)
CASES = {name: settings_of(name) for name in NAMED} | {
    "k1": DEFAULT._replace(kl="k1", beta=0.3),
    "k2": DEFAULT._replace(kl="k2", beta=0.3),
    "k3": DEFAULT._replace(beta=0.3),
    "gspo with k2": settings_of("gspo", kl="k2", beta=0.3),
    "gspo wide": settings_of("gspo", epsilon_low=0.05, epsilon_high=0.05),
    "token truncated": DEFAULT._replace(importance="token", importance_cap=1.1, importance_floor=0.9),
    "token masked": DEFAULT._replace(
        importance="token", importance_cap=1.2, importance_floor=0.9, importance_mode="mask"
    ),
    "sequence truncated": settings_of("gspo", importance="sequence", importance_cap=1.1),
    "sequence masked": settings_of("dr_grpo", importance="sequence", importance_cap=1.3, importance_mode="mask"),
    "entropy": settings_of("cispo", entropy_bonus=0.1),
}
# One of each way to sum over tokens, trajectories and counts.
SUMS = ["grpo", "dr_grpo", "dapo", "gspo", "gspo_token", "rloo", "token truncated", "sequence masked", "entropy"]


def batch(seed=0):
    rng = np.random.default_rng(seed)
    old = -rng.random((B, T)) * 3
    mask = rng.random((B, T)) < 0.6
    mask[2] = False  # a trajectory without a token
    mask[0, :2] = True
    x = {
        "logps": old + rng.normal(0, 0.2, (B, T)),
        "advantages": rng.normal(size=(B, 1)) + rng.normal(0, 0.1, (B, T)),
        "old_logps": old,
        "ref_logps": old + rng.normal(0, 0.3, (B, T)),
        "sampler_logps": old + rng.normal(0, 0.15, (B, T)),
        "entropy": rng.random((B, T)),
    }
    x["logps"][0, :2] = old[0, :2] + (1.4, -0.6)  # ratios of 4.1 and 0.55 meet
    x["advantages"][0] = -np.abs(x["advantages"][0])  # a negative advantage: dual clip
    return {name: value.astype(np.float32) for name, value in x.items()} | {"loss_mask": mask}


def device(arrays):
    return {k: jnp.asarray(v) for k, v in arrays.items()}


def compute(x, settings, segment_ids=None, **counts):
    """((loss, stats), gradient by logps)."""

    def run(logps, arrays):
        return objectives.policy_loss(logps, **arrays, segment_ids=segment_ids, settings=settings, **counts)

    arrays = device(x)
    # Not jitted: the cases share their operations, each of which compiles once.
    return jax.value_and_grad(run, has_aux=True)(arrays.pop("logps"), arrays)


def close(got, want, tolerance=FLOAT32, **kwargs):
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance, **kwargs)


# ---------------------------------------------------------------- the definitions


@pytest.mark.parametrize("on_policy", [False, True], ids=["old", "on policy"])
@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient_equal_the_loop_over_tokens(case, on_policy):
    x, settings = batch(), CASES[case]
    given = {k: v for k, v in x.items() if not (on_policy and k == "old_logps")}
    (loss, _), gradient = compute(given, settings)
    rows = policy_loop.rows_of(x, on_policy)
    close(loss, policy_loop.loss_of(rows, settings))
    want = np.zeros((B, T))
    want[x["loss_mask"]] = np.concatenate(policy_loop.gradient_of(rows, settings))
    close(gradient, want)
    assert np.abs(want).max() > 1e-3


def test_stats_equal_the_loop_over_tokens():
    x = batch()
    settings = DEFAULT._replace(importance="token", importance_cap=1.1, dual_clip=3.0)
    stats = compute(x, settings)[0][1]
    m = x["loss_mask"]
    logp, gain, old, ref, sampler, entropy = (x[name][m].astype(np.float64) for name in ARRAYS)
    ratio, d, gap = np.exp(logp - old), ref - logp, old - sampler
    bounded = np.clip(ratio, 0.8, 1.28)
    want = {
        "clip_frac": np.mean(bounded * gain < ratio * gain),
        "dual_clip_frac": np.mean((gain < 0) & (ratio > 3)),
        "ratio_mean": ratio.mean(),
        "ratio_max": ratio.max(),
        "approx_kl": np.mean(ratio - 1 - (logp - old)),
        "kl_ref": np.mean(np.exp(d) - d - 1),
        "entropy": entropy.mean(),
        "n_tokens": len(logp),
        "gap_mean": np.abs(gap).mean(),
        "gap_max": np.abs(gap).max(),
        "gap_ratio_mean": np.exp(gap).mean(),
        "gap_cut_frac": 0.0,
        "importance_mean": np.minimum(np.exp(gap), 1.1).mean(),
        "importance_capped_frac": np.mean(np.exp(gap) > 1.1),
    }
    assert stats.keys() == want.keys() and 0 < want["clip_frac"] < 1 and want["dual_clip_frac"] > 0
    for name, value in want.items():
        close(stats[name], value, 1e-5, err_msg=name)


def one_token(ratio, gain, **changes):
    one = jnp.full((1, 1), np.log(ratio), jnp.float32)
    settings = PolicySettings(**changes)
    return float(
        objectives.policy_loss(
            one, jnp.full((1, 1), gain, jnp.float32), jnp.ones((1, 1), bool), settings=settings,
            old_logps=jnp.zeros((1, 1)),
        )[0]
    )  # fmt: skip


def test_hand_values_of_one_token():
    assert one_token(1.5, 1.0) == pytest.approx(-1.28)  # min(1.5, 1.28)
    assert one_token(1.5, -1.0) == pytest.approx(1.5)  # min(-1.5, -1.28): the worse counts
    assert one_token(0.5, 1.0) == pytest.approx(-0.5)
    assert one_token(0.5, -1.0) == pytest.approx(0.8)
    assert one_token(1.5, 1.0, epsilon_low=1.0, epsilon_high=np.inf) == pytest.approx(-1.5)
    assert one_token(5.0, -1.0, dual_clip=3.0) == pytest.approx(3.0)  # max(-5, 3 * -1)
    assert one_token(5.0, 1.0, dual_clip=3.0) == pytest.approx(-1.28)  # where A > 0 it has no say
    assert one_token(2.0, 1.0, surrogate="cispo") == pytest.approx(-1.28 * np.log(2))
    # ratios 4 and 1 of one trajectory: geometric mean 2, product 4
    logps, zeros, mask = jnp.log(jnp.asarray([[4.0, 1.0]])), jnp.zeros((1, 2)), jnp.ones((1, 2), bool)
    for ratio, value in (("sequence", 2.0), ("sequence_token", 2.0), ("product", 4.0)):
        wide = PolicySettings(ratio=ratio, epsilon_high=9.0, aggregation="sequence")
        got, _ = objectives.policy_loss(logps, jnp.ones((1, 2)), mask, settings=wide, old_logps=zeros)
        assert float(got) == pytest.approx(-value, rel=1e-6)


def test_hand_values_of_the_kl_estimators():
    one = jnp.zeros((1, 1))
    half = jnp.full((1, 1), np.log(0.5), jnp.float32)
    for estimator, want in (("k1", 0.693147), ("k2", 0.240227), ("k3", 0.193147)):
        got = objectives.kl_to_reference(one, half, jnp.ones((1, 1), bool), estimator)
        assert float(got[0, 0]) == pytest.approx(want, abs=1e-6)


def test_aggregations_differ_by_length_as_stated():
    values, mask = jnp.asarray([[1.0, 3.0], [5.0, 0.0]]), jnp.asarray([[True, True], [True, False]])
    assert float(objectives.aggregate_loss(values, mask, "token")) == 3.0  # 9 / 3
    assert float(objectives.aggregate_loss(values, mask, "sequence")) == 3.5  # (2 + 5) / 2
    assert float(objectives.aggregate_loss(values, mask, "constant", divisor_len=4)) == 1.125  # (4 / 4 + 5 / 4) / 2


def test_clipped_token_carries_no_gradient_and_a_free_one_does():
    def loss(logps, **changes):
        settings = PolicySettings(epsilon_low=0.2, epsilon_high=0.2, **changes)
        ones = jnp.ones((1, 2))
        return objectives.policy_loss(logps, ones, ones.astype(bool), settings=settings, old_logps=jnp.zeros((1, 2)))[0]

    at = jnp.log(jnp.asarray([[1.5, 1.1]]))
    np.testing.assert_allclose(jax.grad(loss)(at), [[0.0, -1.1 / 2]], rtol=1e-6)
    # cispo clips the weight, not the token
    np.testing.assert_allclose(jax.grad(lambda x: loss(x, surrogate="cispo"))(at), [[-0.6, -1.1 / 2]], rtol=1e-6)


def test_an_entropy_bonus_pulls_on_the_entropy():
    x = device(batch())
    settings = PolicySettings(entropy_bonus=0.5)
    gradient = jax.grad(lambda h: objectives.policy_loss(**(x | {"entropy": h}), settings=settings)[0])(x["entropy"])
    mask = np.asarray(x["loss_mask"])
    close(gradient, np.where(mask, -0.5 / mask.sum(), 0.0))


# ---------------------------------------------------------------- every setting is read


CHANGES = {
    "ratio": ("sequence", "sequence_token", "product"),
    "surrogate": ("cispo",),
    "epsilon_low": (0.05,),
    "epsilon_high": (0.05,),
    "dual_clip": (3.0,),
    "aggregation": ("sequence", "constant"),
    "divisor_len": (9,),
    "kl": ("k1", "k2"),
    "kl_in": ("reward",),
    "beta": (0.2,),
    "entropy_bonus": (0.1,),
    "importance": ("none", "sequence"),
    "importance_mode": ("mask",),
    "importance_floor": (0.95,),
    "importance_cap": (1.05,),
}


@pytest.mark.parametrize("field", PolicySettings._fields)
def test_every_setting_changes_the_gradient_or_the_loss(field):
    base = PolicySettings(beta=0.1, importance="token", importance_cap=1.2, importance_floor=0.9, divisor_len=5)
    if field == "divisor_len":
        base = base._replace(aggregation="constant")
    x = batch()
    (loss, _), gradient = compute(x, base)
    for value in CHANGES[field]:
        (other, _), its_gradient = compute(x, base._replace(**{field: value}))
        moved = np.abs(its_gradient - gradient).max()
        assert (abs(float(other - loss)) if field == "entropy_bonus" else moved) > 1e-4, value


# ---------------------------------------------------------------- packed, cut up, masked


def packed(x, seed=1):
    """The rows of x two and three a row, in another order, with padding between: (arrays, segment_ids, places)."""
    rng = np.random.default_rng(seed)
    plan, length = [[4, 0, 5], [2, 1], [3]], 3 * T + 4
    out = {name: np.full((3, length), np.nan, np.float32) for name in ARRAYS}
    out["loss_mask"], ids = np.zeros((3, length), bool), np.full((3, length), -1, np.int32)
    places = {}
    for r, own in enumerate(plan):
        at = int(rng.integers(0, 3))
        for number, b in enumerate(own):
            for name in (*ARRAYS, "loss_mask"):
                out[name][r, at : at + T] = x[name][b]
            ids[r, at : at + T], places[b] = number, (r, at)
            at += T
    return out, ids, places


@pytest.mark.parametrize("case", SUMS)
def test_packed_equals_unpacked(case):
    x, settings = batch(), CASES[case]
    (want, want_stats), want_gradient = compute(x, settings)
    arrays, ids, places = packed(x)
    (got, stats), gradient = compute(arrays, settings, jnp.asarray(ids))
    close(got, want)
    for name, value in want_stats.items():
        close(stats[name], value, 2e-6, err_msg=name)
    for b, (r, at) in places.items():
        close(gradient[r, at : at + T], want_gradient[b])


@pytest.mark.parametrize("case", SUMS)
def test_microbatches_add_up_to_the_whole_update(case):
    x, settings = batch(), CASES[case]
    counts = {"n_tokens": int(x["loss_mask"].sum()), "n_rows": int(x["loss_mask"].any(1).sum())}
    counts = {name: jnp.asarray(value, jnp.int32) for name, value in counts.items()}
    (loss, stats), gradient = compute(x, settings)
    parts = []
    for own in ([0, 1], [2], [3, 4, 5], []):  # a part without a token, and one without a row
        kept = x["loss_mask"] & np.isin(np.arange(B), own)[:, None]
        spoilt = {name: np.where(kept, x[name], np.float32(np.nan)) for name in ARRAYS}
        parts.append(compute(spoilt | {"loss_mask": kept}, settings, **counts))
    close(sum(float(p[0][0]) for p in parts), loss)
    close(sum(p[1] for p in parts), gradient)
    for name, value in stats.items():
        values = [float(p[0][1][name]) for p in parts]
        close(max(values) if name.endswith("_max") else sum(values), value, 2e-6, err_msg=name)


@pytest.mark.parametrize("garbage", [np.nan, -np.inf])
def test_what_stands_off_the_mask_is_not_read(garbage):
    x = batch()
    spoilt = dict(x) | {name: np.where(x["loss_mask"], x[name], np.float32(garbage)) for name in ARRAYS}
    ids = np.where(x["loss_mask"], 0, -7).astype(np.int32)
    for settings in (CASES["token masked"], CASES["gspo with k2"]._replace(entropy_bonus=0.1)):
        jax.tree.map(np.testing.assert_array_equal, compute(x, settings), compute(spoilt, settings))
        jax.tree.map(close, compute(x, settings), compute(spoilt, settings, jnp.asarray(ids)))


@pytest.mark.parametrize("case", SUMS)
def test_tokens_off_the_mask_carry_no_gradient_and_an_empty_mask_no_nan(case):
    x = batch()
    gradient = np.asarray(compute(x, CASES[case])[1])
    assert (gradient[~x["loss_mask"]] == 0.0).all() and (gradient[x["loss_mask"]] != 0.0).mean() > 0.2
    (loss, stats), gradient = compute(x | {"loss_mask": np.zeros((B, T), bool)}, CASES[case])
    assert float(loss) == 0.0 and all(float(v) == 0.0 for v in stats.values()) and (gradient == 0).all()


@pytest.mark.parametrize("case", ["dapo", "gspo", "token masked"])
def test_one_program_serves_the_first_update_of_a_step_and_the_later_ones(case):
    x, settings = batch(), CASES[case]
    alone = {k: v for k, v in x.items() if k != "old_logps"}
    spoilt = x | {"old_logps": np.full((B, T), np.nan, np.float32)}

    @jax.jit
    def program(on_policy, arrays):
        logps = arrays["logps"]
        rest = {name: value for name, value in arrays.items() if name != "logps"}

        def run(logps):
            return objectives.policy_loss(logps, **rest, on_policy=on_policy, settings=settings)

        return jax.value_and_grad(run, has_aux=True)(logps)

    jax.tree.map(close, program(jnp.asarray(True), device(spoilt)), compute(alone, settings))
    jax.tree.map(close, program(jnp.asarray(False), device(x)), compute(x, settings))


def test_a_runaway_ratio_stays_finite():
    logps, ones = jnp.asarray([[500.0, 400.0]]), jnp.ones((1, 2))
    for ratio in ("token", "sequence", "product"):

        def loss(x, ratio=ratio):
            settings = PolicySettings(ratio=ratio)
            return objectives.policy_loss(x, -ones, ones.astype(bool), settings=settings, old_logps=0.0 * ones)[0]

        assert np.isfinite(loss(logps)) and np.isfinite(jax.grad(loss)(logps)).all()


# ---------------------------------------------------------------- warm start, errors


def test_sft_loss_is_the_mean_over_masked_tokens():
    logps, mask = jnp.asarray([[-1.0, -9.0], [-0.5, -6.0]]), jnp.asarray([[True, False], [True, True]])
    loss, stats = objectives.sft_loss(logps, mask, entropy=jnp.asarray([[0.3, jnp.nan], [0.6, 0.9]]))
    assert float(loss) == 2.5  # (1 + 0.5 + 6) / 3
    want = {"nll": 2.5, "likely_frac": 1 / 3, "entropy": 0.6, "n_tokens": 3.0}
    assert {name: pytest.approx(float(value)) for name, value in stats.items()} == want
    grad = jax.grad(lambda x: objectives.sft_loss(x, mask, n_tokens=6)[0])(logps)
    np.testing.assert_allclose(grad, [[-1 / 6, 0.0], [-1 / 6, -1 / 6]], rtol=1e-6)
    halves = [objectives.sft_loss(logps[i : i + 1], mask[i : i + 1], n_tokens=3)[1] for i in (0, 1)]
    assert float(halves[0]["nll"] + halves[1]["nll"]) == 2.5


def test_bad_arguments_are_errors():
    x = device(batch())

    def refused(message, settings=DEFAULT, **changes):
        with pytest.raises(ValueError, match=message):
            objectives.policy_loss(**(x | changes), settings=settings)

    refused("ref_logps must be given where beta is not 0: got beta=0.04", ref_logps=None)
    refused("sampler_logps must be given where importance is not none: got importance=token", sampler_logps=None,
            settings=PolicySettings(importance="token"))  # fmt: skip
    refused("entropy must be given where entropy_bonus is not 0", entropy=None,
            settings=PolicySettings(entropy_bonus=0.1))  # fmt: skip
    for field, word in (("aggregation", "mean"), ("ratio", "row"), ("surrogate", "sapo"), ("kl", "k4"),
                        ("kl_in", "both"), ("importance", "row")):  # fmt: skip
        refused(f"{field} must be one of .*: got {word!r} .config.train.{field}", PolicySettings(**{field: word}))
    refused(
        "divisor_len must be at least 1 where aggregation is constant: got 0", PolicySettings(aggregation="constant")
    )
    refused("loss_mask must be bool", loss_mask=jnp.ones((B, T)))
    refused("advantages must be of loss_mask's shape", advantages=jnp.ones(B))
    refused("old must be of loss_mask's shape", old_logps=jnp.ones((B, T + 1)))
