"""Attention against a loop over rows and heads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arft_jax.ops.attention import attend

TOLERANCE = 2e-5  # float32 sums of some ten terms


def _inputs(n_queries, seed=0, n_heads=6, n_kv=2):
    rng = np.random.default_rng(seed)
    q = rng.normal(size=(3, n_queries, n_heads, 8)).astype(np.float32)
    k, v = rng.normal(size=(2, 3, 9, n_kv, 8)).astype(np.float32)
    mask = rng.random((3, n_queries, 9)) < 0.5
    mask[..., 0] = True
    return q, k, v, mask


def _oracle(q, k, v, mask):
    out = np.zeros(q.shape)
    for b, t, n in np.ndindex(q.shape[:3]):
        kv = n // (q.shape[2] // k.shape[2])
        seen = np.flatnonzero(mask[b, t])
        if seen.size:
            scores = k[b, seen, kv].astype(np.float64) @ q[b, t, n] / np.sqrt(q.shape[3])
            weights = np.exp(scores - scores.max())
            out[b, t, n] = weights @ v[b, seen, kv] / weights.sum()
    return out


@pytest.mark.parametrize("n_queries", [1, 5])
@pytest.mark.parametrize("n_kv", [1, 2, 6])
def test_attention_equals_the_loop(n_queries, n_kv):
    inputs = _inputs(n_queries, n_kv=n_kv)
    np.testing.assert_allclose(attend(*map(jnp.asarray, inputs)), _oracle(*inputs), atol=TOLERANCE)


@pytest.mark.parametrize("n_queries", [1, 5])
def test_a_row_that_sees_nothing_gives_zero_and_a_finite_gradient(n_queries):
    q, k, v, mask = _inputs(n_queries)
    mask[1] = False
    out = attend(*map(jnp.asarray, (q, k, v, mask)))
    np.testing.assert_allclose(out, _oracle(q, k, v, mask), atol=TOLERANCE)
    grads = jax.grad(lambda *x: attend(*x, jnp.asarray(mask)).sum(), argnums=(0, 1, 2))(q, k, v)
    assert all(np.isfinite(g).all() for g in grads)
    assert not np.any(grads[0][1]) and not np.any(grads[2][1])


def test_gradients_equal_those_of_the_plain_softmax():
    q, k, v, mask = _inputs(5)

    def plain(q, k, v):
        k, v = (jnp.repeat(x, 3, axis=2) for x in (k, v))
        scores = jnp.einsum("btnh,bsnh->bnts", q, k) * 8**-0.5
        weights = jax.nn.softmax(jnp.where(mask[:, None], scores, -1e30), axis=-1)
        return jnp.sum(jnp.sin(jnp.einsum("bnts,bsnh->btnh", weights, v)))

    ours = jax.grad(lambda *x: jnp.sum(jnp.sin(attend(*x, jnp.asarray(mask)))), argnums=(0, 1, 2))(q, k, v)
    for got, want in zip(ours, jax.grad(plain, argnums=(0, 1, 2))(q, k, v), strict=True):
        np.testing.assert_allclose(got, want, atol=TOLERANCE)


def test_bfloat16_inputs_keep_a_float32_softmax():
    inputs = _inputs(5)
    q, k, v = (jnp.asarray(x, jnp.bfloat16) for x in inputs[:3])
    out = attend(q, k, v, jnp.asarray(inputs[3]))
    assert out.dtype == jnp.bfloat16
    exact = _oracle(*(np.asarray(x, np.float32) for x in (q, k, v)), inputs[3])
    np.testing.assert_allclose(np.asarray(out, np.float32), exact, atol=2e-2)  # two roundings to 8 bits


def test_shapes_that_do_not_fit_are_named():
    q, k, v, mask = map(jnp.asarray, _inputs(5))
    with pytest.raises(ValueError, match="axis S of mask must be 9"):
        attend(q, k, v, mask[..., :4])
    with pytest.raises(ValueError, match="N=5, K=2"):
        attend(q[:, :, :5], k, v, mask)
