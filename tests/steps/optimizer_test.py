"""The optimiser half of an update: what decays and what is frozen, how moments and parameters are kept."""

import functools
import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from arft_jax.build import model as build
from arft_jax.build import placement
from arft_jax.config import default_config
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.models.lora import Lora, split_trainable
from arft_jax.models.qwen2_5_vl.model import Qwen2_5_VL
from arft_jax.steps import optimizer as opt
from arft_jax.steps.init import abstract_params
from arft_jax.testing.tiny_model import tiny_config

ADAMW = dict(clip_norm=1.0, b1=0.9, b2=0.99, weight_decay=0.1)
F32_SUMS = 2e-6  # float32 sums in another order; values are of order 1
KEY = np.array([3, 1], np.uint32)
AXES = {1: ("embed",), 2: ("embed", "mlp"), 3: ("layers", "embed", "mlp")}


def state_of(**arrays):
    """Parameters by name, with axes."""
    return nnx.State({name: nnx.Param(jnp.asarray(x), axes=AXES[x.ndim]) for name, x in arrays.items()})


def drawn(seed, std=1.0, **shapes):
    rng = np.random.default_rng(seed)
    return state_of(**{name: (std * rng.normal(size=shape)).astype(np.float32) for name, shape in shapes.items()})


def as_type(tree, dtype):
    return jax.tree.map(lambda x: x.astype(dtype), tree)


def plain(tree):
    """{name: array} of parameters."""
    return {keys[0]: np.asarray(leaf[...]) for keys, leaf in nnx.to_flat_state(tree)}


def same(a, b):
    return all(
        np.array_equal(x, y, equal_nan=True) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def steps(optimizer, params, gradients, rate, rounding="nearest"):
    """(params, state, last stats) behind one step for each gradient."""
    apply, state, stats = opt.make_apply(optimizer, rounding=rounding), opt.init_opt_state(optimizer, params), None
    params = jax.device_put(jax.tree.map(jnp.copy, params), jax.devices()[0])  # committed, as in a run
    for at, gradient in enumerate(gradients):
        params, state, stats = apply(params, state, gradient, jnp.float32(rate), jnp.array([3, at], jnp.uint32))
    assert apply._cache_size() == 1  # a state comes back as it went in
    return params, state, stats


# ----------------------------------------------------------------- weight decay


def test_a_step_is_that_of_optax_with_decay_on_kernels_alone():
    shapes = dict(kernel=(4, 3), bias=(2, 3), scale=(4,))
    params, gradients = drawn(0, **shapes), [drawn(i, 3.0, **shapes) for i in (1, 2, 3)]
    got, _, stats = steps(opt.make_optimizer(**ADAMW), params, gradients, 0.1)
    mask = {"kernel": True, "bias": False, "scale": False}
    oracle = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1, b1=0.9, b2=0.99, weight_decay=0.1, mask=mask))
    want, last = plain(params), None
    state = oracle.init(want)
    with jax.numpy_dtype_promotion("standard"):
        for gradient in gradients:
            last, state = oracle.update(plain(gradient), state, want)
            want = optax.apply_updates(want, last)
    for name, value in plain(got).items():
        np.testing.assert_allclose(value, want[name], rtol=0, atol=F32_SUMS, err_msg=name)
    norms = [optax.tree.norm(tree) for tree in (plain(gradients[-1]), last, want)]
    np.testing.assert_allclose([stats[f"{name}_norm"] for name in ("grad", "update", "param")], norms, rtol=1e-5)


NORMS = "text.layers.norm1 text.layers.norm2 text.norm vision.blocks.norm1 vision.blocks.norm2 vision.merger.norm"
BIASED = """text.layers.q text.layers.k text.layers.v vision.blocks.qkv vision.blocks.proj vision.blocks.mlp.gate
    vision.blocks.mlp.up vision.blocks.mlp.down vision.merger.up vision.merger.down"""


def test_biases_and_norm_scales_of_the_model_do_not_decay_and_all_else_does():
    lora = Lora(rank=2, vision=True)
    model = nnx.eval_shape(lambda: Qwen2_5_VL(tiny_config(tied=False), rngs=nnx.Rngs(0), lora=lora))
    mask = nnx.to_flat_state(opt.decay_mask(nnx.state(model, nnx.Param)))
    kinds = {does: {".".join(keys) for keys, leaf in mask if leaf.get_value() == does} for does in (False, True)}
    assert kinds[False] == {f"{name}.scale" for name in NORMS.split()} | {f"{name}.bias" for name in BIASED.split()}
    assert {name.rsplit(".")[-1] for name in kinds[True]} == {"embedding", "unembedding", "kernel", "lora_a", "lora_b"}


# --------------------------------------------------------------------- rounding


def test_rounding_at_random_is_unbiased_and_goes_to_a_neighbour():
    rng, n = np.random.default_rng(0), 4000
    x = (rng.normal(size=200) * 10.0 ** rng.integers(-30, 30, 200)).astype(np.float32)
    x[0] = 1 + 2**-9  # a quarter of the way from 1 to 1 + 2^-7
    keys = jax.vmap(jax.random.key)(np.arange(n))
    got = np.asarray(jax.jit(jax.vmap(opt.round_randomly, (None, 0)))(x, keys).astype(jnp.float32))
    low = (x.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    high = ((x.view(np.uint32) & np.uint32(0xFFFF0000)) + np.uint32(0x10000)).view(np.float32)
    assert np.all((got == low) | (got == high))
    up = (got == high).mean(axis=0)
    want = (x.astype(np.float64) - low) / (high.astype(np.float64) - low)
    assert abs(want[0] - 0.25) < 1e-9
    assert np.abs(up - want).max() < 4.5 * 0.5 / np.sqrt(n)  # four and a half deviations of a share, of 200 shares


def test_rounding_at_random_leaves_bfloat16_numbers_infinities_and_nan_as_they_are():
    exact = [0.0, -0.0, 1.0, -3.140625, 2.0**-133, 3.3895314e38, np.inf, -np.inf, np.nan]
    nan = np.array([0x7F800001, 0x7FFFFFFF], np.uint32).view(np.float32)  # the lower half alone says that it is one
    x = jnp.array(np.concatenate([np.array(exact, np.float32), nan]))
    for seed in range(20):
        got = opt.round_randomly(x, jax.random.key(seed))
        assert got.dtype == jnp.bfloat16
        np.testing.assert_array_equal(got.astype(jnp.float32), x)
        assert np.signbit(np.asarray(got.astype(jnp.float32)))[1]


def test_bfloat16_weights_move_at_a_rate_of_1e_6_where_they_are_rounded_at_random_and_there_alone():
    params = as_type(drawn(0, 0.02, kernel=(64, 64)), jnp.bfloat16)
    gradient, n, rate = drawn(1, kernel=(64, 64)), 50, 1e-6
    optimizer = opt.make_optimizer(**(ADAMW | {"weight_decay": 0.0}))
    moved = {}
    for rounding in ("nearest", "stochastic"):
        got, state, _ = steps(optimizer, params, [gradient] * n, rate, rounding)
        assert plain(got)["kernel"].dtype == jnp.bfloat16
        assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("float32"), jnp.dtype("int32")}
        change = as_type(got, jnp.float32)["kernel"][...] - as_type(params, jnp.float32)["kernel"][...]
        moved[rounding] = np.asarray(change * -jnp.sign(gradient["kernel"][...]))
    assert (moved["nearest"] == 0).mean() > 0.97
    # every step of Adam under one gradient is the rate; the mean of 4096 weights has a deviation of 1e-6
    assert abs(moved["stochastic"].mean() - n * rate) < 5e-6 and (moved["stochastic"] != 0).mean() > 0.2
    with pytest.raises(ValueError, match="rounds at random must be given a key"):
        opt.apply_gradients(optimizer, "stochastic", params, state, gradient, jnp.float32(1.0))
    with pytest.raises(ValueError, match=r"got 'up' \(config.train.param_rounding\)"):
        opt.make_apply(optimizer, rounding="up")(params, state, gradient, jnp.float32(1.0), None)


def test_draws_follow_from_key_and_count_alone():
    params, gradient = as_type(drawn(0, kernel=(32, 32)), jnp.bfloat16), drawn(1, kernel=(32, 32))
    optimizer = opt.make_optimizer(**ADAMW, moments="bfloat16")
    first = opt.init_opt_state(optimizer, params)
    second = steps(optimizer, params, [gradient], 0.0, "stochastic")[1]

    @jax.jit
    def update(state, key):
        return opt.apply_gradients(optimizer, "stochastic", params, state, gradient, jnp.float32(1e-3), key)[:2]

    def after(state, step):
        return update(state, jnp.array([3, step], jnp.uint32))

    assert same(after(first, 1), after(first, 1)) and not same(after(first, 1), after(first, 2))
    # a second update of the step: the same but for its count
    second = (second[0], second[1]._replace(mu=first[1].mu, nu=first[1].nu), second[2])
    a, b = (after(state, 1)[1][1].mu["kernel"][...] for state in (first, second))
    assert not np.array_equal(a, b)


# ---------------------------------------------------------------------- moments


def test_moments_in_bfloat16_take_the_steps_of_float32_ones():
    params, gradients = drawn(0, kernel=(64, 64)), [drawn(i, kernel=(64, 64)) for i in range(8)]
    want, wide, _ = steps(opt.make_optimizer(**ADAMW), params, gradients, 0.01)
    got, state, _ = steps(opt.make_optimizer(**ADAMW, moments="bfloat16"), params, gradients, 0.01)
    assert state[1].mu["kernel"].dtype == state[1].nu["kernel"].dtype == jnp.bfloat16
    assert jax.tree.structure(state) == jax.tree.structure(wide)
    apart, moved = (np.abs(plain(want)["kernel"] - plain(x)["kernel"]) for x in (got, params))
    assert apart.mean() < 0.01 * moved.mean() and plain(got)["kernel"].dtype == np.float32
    np.testing.assert_allclose(wide[1].nu["kernel"][...], state[1].nu["kernel"][...].astype(jnp.float32), rtol=0.03)


def test_a_second_moment_in_bfloat16_falls_again():
    optimizer = opt.make_optimizer(clip_norm=1e9, b1=0.9, b2=0.999, weight_decay=0.0, moments="bfloat16")
    params, nothing = drawn(0, kernel=(32, 32)), state_of(kernel=np.zeros((32, 32), np.float32))
    _, state, _ = steps(optimizer, params, [drawn(1, kernel=(32, 32)), *[nothing] * 200], 0.0)
    fallen = state[1].nu["kernel"][...].astype(jnp.float32) / (0.001 * drawn(1, kernel=(32, 32))["kernel"][...] ** 2)
    assert abs(float(fallen.mean()) - 0.999**200) < 0.01  # 0.82; to the nearest it stays 1
    with pytest.raises(ValueError, match="rounds at random must be given a key"):
        opt.apply_gradients(optimizer, "nearest", params, state, nothing, jnp.float32(1.0))


def test_factored_moments_take_the_steps_of_optax():
    shapes = dict(kernel=(2, 128, 160), square=(128, 128), small=(8, 4), bias=(160,))
    params, gradients = drawn(0, **shapes), [drawn(i, 1e-3, **shapes) for i in (1, 2, 3)]
    settings = dict(clip_norm=1e9, b1=0.0, b2=0.5, weight_decay=0.0, moments="factored")
    got, state, _ = steps(opt.make_optimizer(**settings), params, gradients, 0.1)
    oracle = optax.chain(
        optax.scale_by_factored_rms(decay_rate_fn=lambda i, power: jnp.minimum(1 - (i + 1.0) ** -0.8, 0.5)),
        optax.clip_by_block_rms(1.0), optax.scale(-0.1),
    )  # fmt: skip
    want = plain(params)
    theirs = oracle.init(want)
    with jax.numpy_dtype_promotion("standard"):
        for gradient in gradients:
            updates, theirs = oracle.update(plain(gradient), theirs, want)
            want = optax.apply_updates(want, updates)
    for name, value in plain(got).items():
        np.testing.assert_allclose(value, want[name], rtol=0, atol=1e-5, err_msg=name)
    rms = state[1]
    axes = {
        name: [tree[name].get_metadata("axes") for tree in (rms.v_row, rms.v_col, rms.v)] for name in shapes
    }  # fmt: skip
    assert axes["kernel"] == [("layers", "embed"), ("layers", "mlp"), (None,)]
    assert axes["square"] == [("embed",), ("mlp",), (None,)]  # of equal axes the last counts as the largest
    assert axes["small"] == [(None,), (None,), ("embed", "mlp")] and axes["bias"] == [(None,), (None,), ("embed",)]
    n = sum(leaf.size for leaf in jax.tree.leaves(state))
    assert n == 2 * (128 + 160) + 2 * 128 + 32 + 160 + 6 + 1  # one number where nothing is kept, and a count


def test_factored_moments_keep_the_first_in_bfloat16():
    params, gradient = drawn(0, kernel=(128, 130)), drawn(1, kernel=(128, 130))
    optimizer = opt.make_optimizer(**(ADAMW | {"weight_decay": 0.0}), moments="factored")
    got, state, _ = steps(optimizer, params, [gradient], 1.0)
    assert state[3].ema["kernel"].dtype == jnp.bfloat16 and state[1].v_row["kernel"].dtype == jnp.float32
    change = plain(params)["kernel"] - plain(got)["kernel"]
    # of rank-one scale: the first step of a fresh average is the scaled gradient itself, of root mean square near 1
    assert abs(np.sqrt((change**2).mean()) - 1) < 0.1 and np.all(np.sign(change) == np.sign(plain(gradient)["kernel"]))
    with pytest.raises(ValueError, match=r"got 'float16' \(config.train.moments\)"):
        opt.make_optimizer(**ADAMW, moments="float16")


@pytest.mark.parametrize("moments", ["float32", "bfloat16", "factored"])
def test_a_gradient_that_is_not_finite_changes_neither_parameters_nor_moments(moments):
    shapes = dict(kernel=(128, 128), bias=(3,))
    params, gradient = drawn(0, **shapes), drawn(1, **shapes)
    optimizer = opt.make_optimizer(**ADAMW, moments=moments)
    apply, rate = jax.jit(functools.partial(opt.apply_gradients, optimizer, "nearest")), jnp.float32(0.1)
    params, state, stats = apply(params, opt.init_opt_state(optimizer, params), gradient, rate, KEY)
    assert float(stats["skipped"]) == 0.0
    for bad in (np.nan, np.inf):
        poison = state_of(**plain(gradient) | {"bias": np.array([0.0, bad, 1.0], np.float32)})
        got, kept, stats = apply(params, state, poison, rate, KEY)
        assert same(got, params) and same(kept, state)
        assert float(stats["skipped"]) == 1.0 and float(stats["update_norm"]) == 0.0
        assert not np.isfinite(stats["grad_norm"]) and float(stats["param_norm"]) > 0


# ---------------------------------------------------------------------- frozen


def _abstract(**changes):
    config = default_config()
    config.model.update(changes)
    tokenizer = Tokenizer.tiny()
    sizes = build.model_config(config, tokenizer)
    make = build.model_maker(config, sizes, placement.make_placement(config, jax.devices()[:1]))
    return abstract_params(make)[1]


def test_a_frozen_tower_is_in_no_trained_tree_and_has_no_moments():
    params = _abstract(freeze_vision=True)
    trained, frozen = split_trainable(params)
    assert set(trained) == {"text"} and set(frozen) == {"vision"}
    assert set(split_trainable(_abstract())[0]) == {"text", "vision"} and not split_trainable(_abstract())[1]
    for moments in ("float32", "factored"):
        state = jax.eval_shape(opt.make_optimizer(**ADAMW, moments=moments).init, trained)
        names = {jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in jax.tree.leaves_with_path(state)}
        assert any(".text." in name for name in names) and not any(".vision." in name for name in names)
    adapted = _abstract(freeze_vision=True, lora=dict(rank=2))
    assert set(split_trainable(adapted)[0]) == {"text"}  # as without the key


MESH = """
    import tempfile
    import jax, jax.numpy as jnp, numpy as np
    from flax import nnx
    from arft_jax import sharding
    from arft_jax.io.checkpoints import Checkpoints
    from arft_jax.steps import learner, optimizer as opt

    rng = np.random.default_rng(0)
    def draw(std, dtype):
        return nnx.State({name: nnx.Param(jnp.asarray(std * rng.normal(size=shape), dtype), axes=axes)
            for name, shape, axes in [("kernel", (2, 128, 256), ("layers", "embed", "mlp")),
                ("square", (128, 128), ("embed", "mlp")), ("bias", (2, 256), ("layers", "mlp"))]})

    placement = sharding.Placement(sharding.make_mesh({"data": 2, "fsdp": 2, "tensor": 2}))
    one = sharding.Placement(sharding.make_mesh({}, jax.devices()[:1]))
    for moments, dtype in (("float32", "float32"), ("bfloat16", "bfloat16"), ("factored", "float32")):
        params, gradients = draw(1.0, dtype), [draw(1.0, "float32") for _ in range(2)]
        optimizer = opt.make_optimizer(clip_norm=1.0, b1=0.9, b2=0.99, weight_decay=0.1, moments=moments)
        results = []
        for where in (one, placement):
            here = jax.device_put(jax.tree.map(jnp.copy, params), where.params(params))
            abstract = learner.abstract_train_state(optimizer, params, False, where)
            state = learner.train_state(optimizer, here, False, where)
            rounding = "stochastic" if dtype == "bfloat16" else "nearest"
            apply = opt.make_apply(optimizer, rounding=rounding, like=(abstract["params"], abstract["opt_state"]))
            for step, gradient in enumerate(gradients):
                placed = jax.device_put(gradient, where.params(gradient))
                rate, key = jax.device_put((np.float32(0.1), np.array([3, step], np.uint32)), where.whole)
                state["params"], state["opt_state"], stats = apply(
                    state["params"], state["opt_state"], placed, rate, key)
            assert apply._cache_size() == 1
            places = jax.tree.map(lambda x: x.sharding, state)
            assert places == jax.tree.map(lambda x: x.sharding, abstract), moments
            results.append(state)
        with tempfile.TemporaryDirectory() as folder, Checkpoints(folder) as checkpoints:
            checkpoints.save(1, state, {})
            _, read, _ = checkpoints.restore_latest(abstract)
        assert places == jax.tree.map(lambda x: x.sharding, read)
        for a, b in zip(jax.tree.leaves(read), jax.tree.leaves(state), strict=True):
            np.testing.assert_array_equal(a, b)
        # float32 sums in another order; a number in bfloat16 may then be rounded to the next one, now and then
        for a, b in zip(jax.tree.leaves(results[0]), jax.tree.leaves(results[1]), strict=True):
            a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
            assert np.abs(a - b).mean() < 1e-5 and (np.abs(a - b) > 1e-5).mean() < 0.01, moments
        if moments == "factored":
            rms = state["opt_state"][1]
            shapes = {name: [tree[name].get_value().addressable_shards[0].data.shape for tree in rms[1:]]
                for name in ("kernel", "square", "bias")}
            # the larger axis, mlp, is left out of the rows, embed of the columns; each is split as in the parameter
            assert shapes["kernel"] == [(2, 64), (2, 128), (1,)], shapes
            assert shapes["square"] == [(64,), (64,), (1,)] and shapes["bias"] == [(1,), (1,), (2, 128)], shapes
    print("equal")
"""


def test_moments_of_each_kind_lie_with_their_parameters_on_eight_devices_and_go_through_a_checkpoint():
    env = dict(os.environ, XLA_FLAGS="--xla_force_host_platform_device_count=8", JAX_PLATFORMS="cpu")
    env["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-c", textwrap.dedent(MESH)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.strip() == "equal"
