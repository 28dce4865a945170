"""Attention against a loop over rows and heads; chunks against the whole."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arft_jax.ops import attention
from arft_jax.ops.attention import Mask, attend, attend_causal, attend_segments

TOLERANCE = 2e-5  # float32 sums of some ten terms


def _inputs(n_queries, seed=0, n_heads=6, n_kv=2):
    rng = np.random.default_rng(seed)
    q = rng.normal(size=(3, n_queries, n_heads, 8)).astype(np.float32)
    k, v = rng.normal(size=(2, 3, 9, n_kv, 8)).astype(np.float32)
    q_segment, q_at = rng.integers(0, 2, (3, n_queries)), rng.integers(3, 9, (3, n_queries))
    kv_segment, kv_at = rng.integers(-1, 2, (3, 9)), rng.permuted(np.tile(np.arange(9), (3, 1)), axis=1)
    kv_segment[:, :2], kv_at[:, :2] = [0, 1], 0  # every query sees something
    return q, k, v, Mask(*(x.astype(np.int32) for x in (q_segment, kv_segment, q_at, kv_at)))


def _prefixes(n_queries):
    """Another segment that each query sees, or none, or its own once more."""
    return np.random.default_rng(1).integers(-1, 2, (3, n_queries)).astype(np.int32)


def _sees(mask, b, t, s):
    kv, seen = int(mask.kv_segment[b, s]), [int(mask.q_segment[b, t])]
    seen += [] if mask.q_prefix is None else [int(mask.q_prefix[b, t])]
    return kv >= 0 and kv in seen and (mask.q_at is None or mask.kv_at[b, s] <= mask.q_at[b, t])


def _oracle(q, k, v, mask):
    out = np.zeros(q.shape)
    for b, t, n in np.ndindex(q.shape[:3]):
        kv = n // (q.shape[2] // k.shape[2])
        seen = np.array([s for s in range(k.shape[1]) if _sees(mask, b, t, s)])
        if seen.size:
            scores = k[b, seen, kv].astype(np.float64) @ q[b, t, n] / np.sqrt(q.shape[3])
            weights = np.exp(scores - scores.max())
            out[b, t, n] = weights @ v[b, seen, kv] / weights.sum()
    return out


@pytest.mark.parametrize("n_queries", [1, 5])
@pytest.mark.parametrize("n_kv", [1, 2, 6])
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("prefix", [True, False])
def test_attention_equals_the_loop(n_queries, n_kv, ordered, prefix):
    q, k, v, mask = _inputs(n_queries, n_kv=n_kv)
    mask = mask if ordered else mask._replace(q_at=None, kv_at=None)
    mask = mask._replace(q_prefix=_prefixes(n_queries)) if prefix else mask
    np.testing.assert_allclose(attend(q, k, v, mask), _oracle(q, k, v, mask), atol=TOLERANCE)


@pytest.mark.parametrize("n_queries", [5, 40])
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("prefix", [True, False])
def test_chunks_equal_the_whole_with_their_gradients(ordered, n_queries, prefix, monkeypatch):
    monkeypatch.setattr(attention, "BLOCK", 16 if n_queries == 40 else 4)  # the last block of 40 is padded
    q, k, v, mask = _inputs(n_queries)
    mask = mask if ordered else mask._replace(q_at=None, kv_at=None)
    mask = mask._replace(q_prefix=_prefixes(n_queries)) if prefix else mask

    @functools.partial(jax.jit, static_argnums=3)
    def output_and_gradients(q, k, v, kind):
        out, back = jax.vjp(lambda *x: attend(*x, mask, implementation=kind), q, k, v)
        return [out, *back(jnp.cos(out))]

    pairs = zip(*(output_and_gradients(q, k, v, kind) for kind in ("chunked", "plain")), strict=True)
    for got, want in pairs:
        np.testing.assert_allclose(got, want, atol=10 * TOLERANCE)  # sums over 40 queries


PACKED = np.repeat([[0, 1, 2, -1], [0, 0, 1, 2]], 16, axis=1).astype(np.int32)  # two rows of segments


def _packed(seed=0):
    rng = np.random.default_rng(seed)
    q, g = rng.normal(size=(2, 2, 64, 6, 8)).astype(np.float32)
    return q, *rng.normal(size=(2, 2, 64, 2, 8)).astype(np.float32), g


@pytest.mark.parametrize("block", [7, 16])
@pytest.mark.parametrize("attend_packed", [attend_causal, attend_segments])
def test_packed_rows_in_chunks_equal_the_whole_with_their_gradients(attend_packed, block, monkeypatch):
    monkeypatch.setattr(attention, "BLOCK", block)
    *qkv, g = _packed()
    values = {}
    for kind in ("chunked", "plain"):

        @jax.jit
        def output_and_gradients(*qkv, kind=kind):
            out, back = jax.vjp(lambda *x: attend_packed(*x, PACKED, implementation=kind), *qkv)
            return [out, *back(g)]

        values[kind] = output_and_gradients(*qkv)
    for got, want in zip(values["chunked"], values["plain"], strict=True):
        np.testing.assert_allclose(got, want, atol=TOLERANCE)
    assert np.all(values["chunked"][0][0, 48:] == 0)  # padding


def test_a_block_of_columns_that_a_query_sees_as_its_prefix_alone_is_not_passed_over(monkeypatch):
    """Both rows hold segment 0 in front; what stands behind sees it, in blocks that hold no column of its own."""
    monkeypatch.setattr(attention, "BLOCK", 16)
    *qkv, g = _packed()
    prefixes = np.where(PACKED > 0, 0, -1).astype(np.int32)
    values = {}
    for kind in ("chunked", "plain", "alone"):
        ids = (PACKED,) if kind == "alone" else (PACKED, prefixes)
        form = "plain" if kind == "alone" else kind
        out, back = jax.vjp(lambda *x, ids=ids, form=form: attend_causal(*x, *ids, implementation=form), *qkv)
        values[kind] = [out, *back(g)]
    for got, want in zip(values["chunked"], values["plain"], strict=True):
        np.testing.assert_allclose(got, want, atol=TOLERANCE)
    assert np.abs(values["alone"][0] - values["plain"][0]).max() > 0.1


def test_chunks_pass_over_columns_that_no_row_sees(monkeypatch):
    """NaN times 0 is NaN: what a query does not see must not even be multiplied by 0."""
    monkeypatch.setattr(attention, "BLOCK", 16)
    q, k, v, g = _packed()

    def output_and_gradient(k, v):
        out, back = jax.vjp(lambda *x: attend_causal(*x, PACKED, implementation="chunked"), q, k, v)
        return out, back(g)[0]

    want = output_and_gradient(k, v)
    k[:, 16:32], v[:, 16:32] = np.nan, np.nan
    for got, clean in zip(output_and_gradient(k, v), want, strict=True):
        np.testing.assert_array_equal(got[:, :16], clean[:, :16])  # they are later
        np.testing.assert_array_equal(got[:, 32:], clean[:, 32:])  # they are of other segments


def test_memory_of_chunks_is_linear_in_length():
    def temporaries(n, implementation):
        x, ids = jnp.zeros((1, n, 1, 8)), jnp.zeros((1, n), jnp.int32)
        at = jnp.arange(n, dtype=jnp.int32)[None]
        grad = jax.grad(lambda x: attend(x, x, x, Mask(ids, ids, at, at), implementation=implementation).sum())
        return jax.jit(grad).lower(x).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(8192, "chunked") < 2.5 * temporaries(4096, "chunked")
    assert temporaries(8192, "chunked") < temporaries(8192, "plain") / 5
    assert temporaries(8192, "auto") == temporaries(8192, "chunked")


@pytest.mark.parametrize("n_queries", [1, 5])
def test_a_row_that_sees_nothing_gives_zero_and_a_finite_gradient(n_queries):
    q, k, v, mask = _inputs(n_queries)
    mask.q_segment[1] = -1
    out = attend(q, k, v, mask)
    np.testing.assert_allclose(out, _oracle(q, k, v, mask), atol=TOLERANCE)
    grads = jax.grad(lambda *x: attend(*x, mask).sum(), argnums=(0, 1, 2))(q, k, v)
    assert all(np.isfinite(g).all() for g in grads)
    assert not np.any(grads[0][1]) and not np.any(grads[2][1])


def test_gradients_equal_those_of_the_plain_softmax():
    q, k, v, mask = _inputs(5)

    def plain(q, k, v):
        k, v = (jnp.repeat(x, 3, axis=2) for x in (k, v))
        scores = jnp.einsum("btnh,bsnh->bnts", q, k) * 8**-0.5
        weights = jax.nn.softmax(jnp.where(mask.dense()[:, None], scores, -1e30), axis=-1)
        return jnp.sum(jnp.sin(jnp.einsum("bnts,bsnh->btnh", weights, v)))

    ours = jax.grad(lambda *x: jnp.sum(jnp.sin(attend(*x, mask))), argnums=(0, 1, 2))(q, k, v)
    for got, want in zip(ours, jax.grad(plain, argnums=(0, 1, 2))(q, k, v), strict=True):
        np.testing.assert_allclose(got, want, atol=TOLERANCE)


def test_bfloat16_inputs_keep_a_float32_softmax():
    inputs = _inputs(5)
    q, k, v = (jnp.asarray(x, jnp.bfloat16) for x in inputs[:3])
    out = attend(q, k, v, inputs[3])
    assert out.dtype == jnp.bfloat16
    exact = _oracle(*(np.asarray(x, np.float32) for x in (q, k, v)), inputs[3])
    np.testing.assert_allclose(np.asarray(out, np.float32), exact, atol=2e-2)  # two roundings to 8 bits


def test_shapes_that_do_not_fit_are_named():
    q, k, v, mask = _inputs(5)
    with pytest.raises(ValueError, match="axis S of kv_segment must be 9"):
        attend(q, k, v, mask._replace(kv_segment=mask.kv_segment[:, :4]))
    with pytest.raises(
        ValueError, match=r"must be one of auto, plain, chunked: got 'flash' \(config.model.attention\)"
    ):
        attend(q, k, v, mask, implementation="flash")
    with pytest.raises(ValueError, match="N=5, K=2"):
        attend(q[:, :, :5], k, v, mask)
