"""Attention over a cache: the same as the general form, at every shape of call."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arft_jax.ops import cached_attention
from arft_jax.ops.attention import Mask, attend

# float32 sums in another order; values are of order 1
TOLERANCE = 2e-6
R, T, N, K, S, H = 3, 5, 4, 2, 24, 8


@pytest.fixture(scope="module")
def arrays():
    q, k, v = (
        jax.random.normal(jax.random.key(i), s) for i, s in enumerate([(R, T, N, H), (R, K, H, S), (R, K, S, H)])
    )
    cols = jnp.asarray([[0, 1, 2, 3, 4], [7, 8, 9, 10, 24], [19, 20, 21, 22, 23]], jnp.int32)
    return q, k, v, cols


def general(q, k, v, cols):
    at = jnp.broadcast_to(jnp.arange(S, dtype=jnp.int32), (R, S))
    mask = Mask(jnp.zeros_like(cols), jnp.zeros_like(at), cols, at)
    return attend(q, jnp.moveaxis(k, 3, 1), jnp.moveaxis(v, 1, 2), mask, implementation="plain")


def test_it_equals_the_general_form(arrays):
    np.testing.assert_allclose(cached_attention.attend_cached(*arrays), general(*arrays), atol=TOLERANCE)


def test_one_query_a_row_equals_the_general_form(arrays):
    q, k, v, cols = arrays
    one = cached_attention.attend_cached(q[:, 2:3], k, v, cols[:, 2:3])
    np.testing.assert_allclose(one, general(*arrays)[:, 2:3], atol=TOLERANCE)


@pytest.mark.parametrize("scores", [2 * S, S - 1])
def test_chunks_of_queries_change_nothing(arrays, monkeypatch, scores):
    whole = cached_attention.attend_cached(*arrays)
    monkeypatch.setattr(cached_attention, "CHUNK_SCORES", scores)
    np.testing.assert_allclose(cached_attention.attend_cached(*arrays), whole, atol=TOLERANCE)


def test_columns_behind_a_token_are_not_seen_whatever_finite_number_they_hold(arrays):
    q, k, v, cols = arrays
    here = cols[:, :4]
    want = cached_attention.attend_cached(q[:, :4], k, v, here)
    far = jnp.arange(S)[None, None, :] > here.max(axis=1)[:, None, None]  # [R, 1, S]
    k, v = jnp.where(far[:, :, None, :], 1e30, k), jnp.where(far[..., None], 1e30, v)
    got = cached_attention.attend_cached(q[:, :4], k, v, here)
    np.testing.assert_array_equal(got, want)


def test_heads_that_do_not_share_keys_evenly_are_refused(arrays):
    q, k, v, cols = arrays
    with pytest.raises(ValueError, match="got N=3, K=2"):
        cached_attention.attend_cached(q[:, :, :3], k, v, cols)
