"""Layers put into a stacked array and taken out of it, one compilation for all of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arft_jax.steps import param_edits


def test_each_layer_lands_at_its_index_and_comes_back():
    layers = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    put, take = param_edits.make_put_layer(None), param_edits.make_take_layer(None)
    stacked = param_edits.zeros((4, 2, 3), jnp.float32, None)
    for index in (2, 0, 3):
        stacked = put(stacked, layers[index], np.int32(index))
    want = layers.copy()
    want[1] = 0  # never put
    np.testing.assert_array_equal(stacked, want)
    for index in range(4):
        np.testing.assert_array_equal(take(stacked, np.int32(index)), want[index])


def test_all_layers_of_a_shape_share_one_compilation_and_the_stack_is_donated():
    put, take = param_edits.make_put_layer(None), param_edits.make_take_layer(None)
    stacked = param_edits.zeros((3, 5), jnp.bfloat16, None)
    sizes = put._cache_size(), take._cache_size()  # one cache for the process
    for index in range(3):
        before, stacked = stacked, put(stacked, jnp.ones(5, jnp.bfloat16), np.int32(index))
        assert before.is_deleted()
        take(stacked, np.int32(index))
    assert (put._cache_size() - sizes[0], take._cache_size() - sizes[1]) == (1, 1)
    assert stacked.dtype == jnp.bfloat16 and bool((stacked == 1).all())


def test_a_copy_lives_on_when_its_source_is_gone():
    x = jax.device_put(np.arange(3.0, dtype=np.float32))
    copy = param_edits.make_copy(None)(x)
    x.delete()
    np.testing.assert_array_equal(copy, [0, 1, 2])
    with pytest.raises(RuntimeError):
        np.asarray(x)
