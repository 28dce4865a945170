"""The key/value cache: what is written is read, in every type."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arft_jax.models import cache as cache_lib
from arft_jax.models.cache import init_cache, read, write
from arft_jax.testing.tiny_model import tiny_model

SIZES = types.SimpleNamespace(n_layers=2, n_kv_heads=2, head_dim=4)
# share of the largest number of a head that one step of the type is off at most
STEP = {"float32": 0.0, "bfloat16": 2**-8, "int8": 0.5 / 127, "float8_e4m3fn": 2**-4}


def as_read(cache, layer, slots, columns):
    """Keys and values as they are read, each [R, K, columns, H]."""
    keys, values = read(cache, layer, slots, columns, jnp.float32)
    return jnp.swapaxes(keys, 2, 3), values


def filled(dtype, bias=0.0):
    cache = init_cache(SIZES, n_slots=3, cache_len=6, dtype=dtype)
    k, v = (jax.random.normal(jax.random.key(i), (2, 2, 2, 4)) + bias for i in (0, 1))
    slots, cols = jnp.asarray([2, 0]), jnp.asarray([[1, 2], [4, 6]])
    return write(cache, jnp.int32(1), slots, cols, k, v), k, v


@pytest.mark.parametrize("bias", [0.0, 1000.0])  # beyond 448 an unscaled float8_e4m3fn is NaN
@pytest.mark.parametrize("dtype", STEP)
def test_what_is_written_is_read_to_the_precision_of_the_type(dtype, bias):
    cache, k, v = filled(dtype, bias)
    for slots, rows in ((None, (2, 0)), (jnp.asarray([2, 0]), (0, 1))):
        for got, new in zip(as_read(cache, jnp.int32(1), slots, 6), (k, v), strict=True):
            at = np.asarray(got)[np.array(rows)]
            for want, seen in ((new[0, 0], at[0, :, 1]), (new[0, 1], at[0, :, 2]), (new[1, 0], at[1, :, 4])):
                largest = np.abs(want).max(axis=-1, keepdims=True)
                assert (np.abs(seen - want) <= STEP[dtype] * largest * 1.001).all()


@pytest.mark.parametrize("dtype", STEP)
def test_nothing_else_is_touched_and_columns_beyond_the_end_are_dropped(dtype):
    cache, _, _ = filled(dtype)
    touched = np.argwhere(np.asarray(cache.k.astype(jnp.float32) != 0).any(axis=(2, 4)))
    assert touched.tolist() == [[1, 0, 4], [1, 2, 1], [1, 2, 2]]


@pytest.mark.parametrize("dtype", STEP)
def test_layers_that_stand_apart_hold_what_a_stack_holds(dtype):
    stacked, k, v = filled(dtype)
    apart = init_cache(SIZES, n_slots=3, cache_len=6, dtype=dtype, unstacked=True)
    assert (apart.n_slots, apart.length, apart.dtype) == (stacked.n_slots, stacked.length, stacked.dtype)
    apart = write(apart, 1, jnp.asarray([2, 0]), jnp.asarray([[1, 2], [4, 6]]), k, v)
    turned = apart._replace(k=[jnp.swapaxes(layer, 2, 3) for layer in apart.k])
    for one, many in zip(turned, stacked, strict=True):
        assert (one is None) == (many is None)
        if one is not None:
            np.testing.assert_array_equal(jnp.stack(one).astype(jnp.float32), many.astype(jnp.float32))
    for layer in range(2):
        for slots in (None, jnp.asarray([2, 0])):
            seen = as_read(apart, layer, slots, 4), as_read(stacked, jnp.int32(layer), slots, 4)
            np.testing.assert_array_equal(*seen)


@pytest.mark.parametrize("dtype", STEP)
def test_columns_written_to_a_part_come_back_and_nothing_else_does(dtype):
    slots, k, v = jnp.arange(3), *(jax.random.normal(jax.random.key(i), (3, 2, 2, 4)) for i in (5, 6))
    full = init_cache(SIZES, n_slots=3, cache_len=6, dtype=dtype, unstacked=True)
    full = write(full, 0, slots, jnp.asarray([[0, 5]] * 3), k, v)
    part = cache_lib.first_columns(full, 4)
    assert part.length == 4
    cols = jnp.asarray([[1, 2], [3, 4], [6, 7]])  # the second slot's last, and the third's, are beyond the part
    back = cache_lib.put_columns(full, write(part, 1, slots, cols, k, v), cols)
    want = write(full, 1, slots, jnp.where(cols < 4, cols, 6), k, v)
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(a.astype(jnp.float32), b.astype(jnp.float32))


def test_only_the_first_columns_are_read():
    cache, _, _ = filled("float32")
    keys, values = as_read(cache, jnp.int32(1), None, 3)
    assert keys.shape == values.shape == (3, 2, 3, 4)
    np.testing.assert_array_equal(keys, cache.k[1, :, :, :3])


def test_hand_value_of_int8_and_float8():
    x = jnp.asarray([2.0, -1.0, 0.3])
    q, scale = cache_lib.quantise(x, jnp.int8)
    np.testing.assert_array_equal(q, [127, -64, 19])
    np.testing.assert_allclose(scale, 2 / 127, rtol=1e-6)
    q, scale = cache_lib.quantise(x, jnp.float8_e4m3fn)
    held = q.astype(jnp.float8_e4m3fn).astype(jnp.float32)
    np.testing.assert_array_equal(held, [448, -224, 64])  # between 64 and 128 a step is 8: 67.2 is nearer 64 than 72
    np.testing.assert_allclose(scale, 2 / 448, rtol=1e-6)
    for dtype in (jnp.int8, jnp.float8_e4m3fn):
        np.testing.assert_array_equal(cache_lib.quantise(jnp.zeros(3), dtype)[0], [0, 0, 0])


@pytest.mark.parametrize("dtype", ["int8", "float8_e4m3fn"])
def test_no_finite_number_becomes_nan_however_large(dtype):
    """Else a slot would keep it: attention's weight 0 on an unseen column does not undo a NaN."""
    n = 4000
    sizes = 10.0 ** np.random.default_rng(0).uniform(-15, 38, (1, n, 1, 1))
    x = jnp.asarray(np.random.default_rng(1).uniform(-3, 3, (1, n, 2, 4)) * sizes, jnp.float32)  # up to 3e38
    cache = init_cache(SIZES, n_slots=1, cache_len=n, dtype=dtype)
    cache = write(cache, jnp.int32(0), jnp.asarray([0]), jnp.arange(n, dtype=jnp.int32)[None], x, -x)
    for got, want in zip(as_read(cache, jnp.int32(0), None, n), (x, -x), strict=True):
        got, want = np.asarray(got, np.float64)[0], np.asarray(want, np.float64)[0].swapaxes(0, 1)
        assert (np.abs(got - want) <= STEP[dtype] * np.abs(want).max(axis=-1, keepdims=True) * 1.001).all()


def _logps(model, tokens, kind, held=None):
    embeds = model.embed(tokens, jnp.zeros((0, 48)), jnp.full(tokens.shape, -1, jnp.int32))
    cols = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
    positions = jnp.broadcast_to(cols[:, None], (tokens.shape[0], 3, tokens.shape[1]))
    cache = init_cache(model.config.text, 4, 24, kind) if held is None else held
    hidden, cache = model.hidden_cached(embeds, positions, cache, None, cols)
    return np.asarray(jax.nn.log_softmax(model.logits(hidden), axis=-1)), cache


TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 150, (4, 24)), jnp.int32)


@pytest.mark.parametrize("dtype", STEP)
def test_a_key_bias_of_1000_leaves_every_log_prob_finite(dtype):
    model = tiny_model()
    bias = model.text.layers.k.bias
    bias[...] = bias[...] + 1000.0 * jnp.sign(bias[...])
    logps, cache = _logps(model, TOKENS, dtype)
    keys, _ = read(cache, jnp.int32(0), None, 24, jnp.float32)
    assert np.isfinite(logps).all() and float(jnp.abs(keys).max()) > 1000


@pytest.mark.parametrize("dtype", STEP)
def test_what_a_slot_held_before_changes_no_bit(dtype):
    model = tiny_model()
    fresh, cache = _logps(model, TOKENS[:, :16], dtype)  # 8 columns stay the former row's
    slots, cols = jnp.arange(4), jnp.broadcast_to(jnp.arange(24, dtype=jnp.int32), (4, 24))
    for layer in range(3):
        huge = jnp.full((4, 24, 2, 12), 1e4 * (1.0 - 2.0 * (layer % 2)))
        cache = write(cache, jnp.int32(layer), slots, cols, huge, huge)
    np.testing.assert_array_equal(_logps(model, TOKENS[:, :16], dtype, cache)[0], fresh)


# The cost of fewer bits in nats a token, a random model of three layers: int8 is near nothing, float8 is not.
@pytest.mark.parametrize("dtype, most", [("bfloat16", 0.01), ("int8", 0.02), ("float8_e4m3fn", 0.15)])
def test_log_probs_move_little_under_a_smaller_cache(dtype, most):
    model = tiny_model()
    exact, rough = _logps(model, TOKENS, "float32")[0], _logps(model, TOKENS, dtype)[0]
    gap = np.abs(np.take_along_axis(exact - rough, np.asarray(TOKENS)[..., None], axis=-1))
    assert 0 < gap.mean() < most, gap.mean()
