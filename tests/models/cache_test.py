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


def filled(dtype):
    cache = init_cache(SIZES, n_slots=3, cache_len=6, dtype=dtype)
    k, v = (jax.random.normal(jax.random.key(i), (2, 2, 2, 4)) for i in (0, 1))
    slots, cols = jnp.asarray([2, 0]), jnp.asarray([[1, 2], [4, 6]])
    return write(cache, jnp.int32(1), slots, cols, k, v), k, v


@pytest.mark.parametrize("dtype", STEP)
def test_what_is_written_is_read_to_the_precision_of_the_type(dtype):
    cache, k, v = filled(dtype)
    for slots, rows in ((None, (2, 0)), (jnp.asarray([2, 0]), (0, 1))):
        for got, new in zip(read(cache, jnp.int32(1), slots, 6, jnp.float32), (k, v), strict=True):
            at = np.asarray(got)[np.array(rows)]
            for want, seen in ((new[0, 0], at[0, :, 1]), (new[0, 1], at[0, :, 2]), (new[1, 0], at[1, :, 4])):
                largest = np.abs(want).max(axis=-1, keepdims=True)
                assert (np.abs(seen - want) <= STEP[dtype] * largest * 1.001).all()


@pytest.mark.parametrize("dtype", STEP)
def test_nothing_else_is_touched_and_columns_beyond_the_end_are_dropped(dtype):
    cache, _, _ = filled(dtype)
    touched = np.argwhere(np.asarray(cache.k.astype(jnp.float32) != 0).any(axis=(2, 4)))
    assert touched.tolist() == [[1, 0, 4], [1, 2, 1], [1, 2, 2]]


def test_only_the_first_columns_are_read():
    cache, _, _ = filled("float32")
    keys, values = read(cache, jnp.int32(1), None, 3, jnp.float32)
    assert keys.shape == values.shape == (3, 2, 3, 4)
    np.testing.assert_array_equal(keys, cache.k[1, :, :, :3])


def test_hand_value_of_int8():
    q, scale = cache_lib._quantise(jnp.asarray([2.0, -1.0, 0.3]))
    np.testing.assert_array_equal(q, [127, -64, 19])
    np.testing.assert_allclose(scale, 2 / 127, rtol=1e-6)
    zeros, _ = cache_lib._quantise(jnp.zeros(3))
    np.testing.assert_array_equal(zeros, [0, 0, 0])


# The cost of fewer bits in nats a token, a random model of three layers: int8 is near nothing, float8 is not.
@pytest.mark.parametrize("dtype, most", [("bfloat16", 0.01), ("int8", 0.02), ("float8_e4m3fn", 0.15)])
def test_log_probs_move_little_under_a_smaller_cache(dtype, most):
    model, length = tiny_model(), 24
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 150, (4, length)), jnp.int32)
    embeds = model.embed(tokens, jnp.zeros((0, 48)), jnp.full(tokens.shape, -1, jnp.int32))
    positions = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32)[None, None], (4, 3, length))
    cols = positions[:, 0]

    def logps(kind):
        cache = init_cache(model.config.text, 4, length, kind)
        hidden, _ = model.hidden_cached(embeds, positions, cache, None, cols)
        return jax.nn.log_softmax(model.logits(hidden), axis=-1)

    exact, rough = np.asarray(logps("float32")), np.asarray(logps(dtype))
    gap = np.abs(np.take_along_axis(exact - rough, np.asarray(tokens)[..., None], axis=-1))
    assert 0 < gap.mean() < most, gap.mean()
