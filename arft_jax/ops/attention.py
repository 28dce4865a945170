"""Scaled dot-product attention with grouped key/value heads: the one door for every kernel.

Attention(q, k, v) = softmax(q kᵀ / √H) v (arXiv 1706.03762, eq. 1), grouped heads after arXiv 2305.13245. Who sees whom
is told by :class:`Mask`, a few numbers a token: a [T, S] array of booleans never needs to exist, so the chunked form's
memory is linear in length.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from arft_jax.ops.shapes import check_axes
from arft_jax.words import ATTENTION_FORMS

_MASKED = -1e30  # finite, so that a row with nothing to attend to has no NaN in its gradient
_PLAIN_UP_TO = 2**16  # scores a head: above, "auto" works in chunks
_LEAST = -1e29  # below every score but those of columns that are not seen
_Q_SEGMENTS = ("q_segment", "q_prefix")  # fields of a mask that name segments whose columns the query sees
BLOCK = 128  # tokens: the most queries, and the most columns, that meet at once in the chunked form
ATTENDED = "attended"  # name of what the chunked form keeps for its backward pass, for jax.checkpoint


class Mask(NamedTuple):
    """Query t sees column s where their segments are equal and not negative, and ``kv_at[s] <= q_at[t]``.

    Example, segments [0, 0, 1, -1] on both sides and ``at`` counting from 0: query 1 sees columns 0 and 1, query 2
    sees column 2, query 3 (padding) sees none. With ``q_prefix`` [-1, -1, 0, -1] query 2 sees columns 0 and 1 too.

    Args:
      q_segment: int32[B, T].
      kv_segment: int32[B, S].
      q_at: int32[B, T], None: no order, every column of the segment is seen.
      kv_at: int32[B, S], with ``q_at``.
      q_prefix: int32[B, T], a second segment that the query sees, -1: none. None: no query has one.
    """

    q_segment: jax.Array
    kv_segment: jax.Array
    q_at: jax.Array | None = None
    kv_at: jax.Array | None = None
    q_prefix: jax.Array | None = None

    def dense(self) -> jax.Array:
        """bool[B, T, S]."""
        seen = self.q_segment[:, :, None] == self.kv_segment[:, None, :]
        if self.q_prefix is not None:
            seen |= self.q_prefix[:, :, None] == self.kv_segment[:, None, :]
        seen &= (self.kv_segment >= 0)[:, None, :]
        if self.q_at is None:
            return seen
        return seen & (self.kv_at[:, None, :] <= self.q_at[:, :, None])


def attend(q: jax.Array, k: jax.Array, v: jax.Array, mask: Mask, *, implementation: str = "auto") -> jax.Array:
    """softmax(q kᵀ / √H) v over the columns that ``mask`` lets each query see; query head n reads kv head n // (N/K).

    Softmax is float32. A query that sees nothing gives 0.

    Args:
      q: float[B, T, N, H].
      k, v: float[B, S, K, H]; N is a multiple of K.
      mask: who sees whom.
      implementation: ``plain`` holds all T * S scores of a head at once; ``chunked`` those of a block of queries and a
        block of columns, in the backward pass too, and passes over pairs of blocks in which nothing is seen in any
        row; ``auto`` is plain up to 2^16 scores a head and chunked above.

    Returns:
      float[B, T, N, H] in q's type.

    Raises:
      ValueError: shapes that do not fit, an unknown implementation.
    """
    arrays = dict(q=(q, "BTNH"), k=(k, "BSKH"), v=(v, "BSKH"), q_segment=(mask.q_segment, "BT"))
    arrays["kv_segment"] = (mask.kv_segment, "BS")
    if mask.q_at is not None:
        arrays |= dict(q_at=(mask.q_at, "BT"), kv_at=(mask.kv_at, "BS"))
    if mask.q_prefix is not None:
        arrays["q_prefix"] = (mask.q_prefix, "BT")
    sizes = check_axes(**arrays)
    n_heads, n_kv = sizes["N"], sizes["K"]
    if n_heads % n_kv:
        raise ValueError(f"query heads must be a multiple of kv heads: got N={n_heads}, K={n_kv}")
    if implementation not in ATTENTION_FORMS:
        raise ValueError(
            f"attention must be one of {', '.join(ATTENTION_FORMS)}: got {implementation!r} (config.model.attention)"
        )
    if implementation == "auto":
        implementation = "plain" if sizes["T"] * sizes["S"] <= _PLAIN_UP_TO else "chunked"
    if implementation == "plain":
        return _plain(q, k, v, mask)
    return _chunked(q, k, v, mask, BLOCK)


def attend_causal(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segment_ids: jax.Array,
    prefix_ids: jax.Array | None = None,
    *,
    implementation: str = "auto",
) -> jax.Array:
    """:func:`attend` over whole sequences: a token sees its own segment's columns up to its own.

    With ``prefix_ids`` it also sees the columns before it of one other segment: sequences that begin alike have that
    beginning once, as a segment in front of them.

    Args:
      q: float[B, T, N, H].
      k, v: float[B, T, K, H].
      segment_ids: int32[B, T], -1 for padding.
      prefix_ids: int32[B, T], the other segment that a token sees, -1: none; None: no token has one.
      implementation: as there.
    """
    at = jnp.broadcast_to(jnp.arange(segment_ids.shape[1], dtype=jnp.int32), segment_ids.shape)
    return attend(q, k, v, Mask(segment_ids, segment_ids, at, at, prefix_ids), implementation=implementation)


def attend_segments(
    q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array, *, implementation: str = "auto"
) -> jax.Array:
    """:func:`attend` over whole sequences without order: a token sees every column of its own segment.

    Args:
      q: float[B, T, N, H].
      k, v: float[B, T, K, H].
      segment_ids: int32[B, T], -1 for padding.
      implementation: as there.
    """
    return attend(q, k, v, Mask(segment_ids, segment_ids), implementation=implementation)


def _plain(q: jax.Array, k: jax.Array, v: jax.Array, mask: Mask) -> jax.Array:
    """Heads stand before tokens, and the query heads of one kv head are rows of one product: no product is batched over
    more than [B, K] or reads a turned operand. The division by the sum comes after the second product: it then touches
    [T, H] numbers a head, not [T, S].
    """
    n_kv = k.shape[2]
    seen = mask.dense()
    queries, keys, values = _heads_first(q, n_kv), _heads_first(k, n_kv)[:, :, 0], _heads_first(v, n_kv)[:, :, 0]
    scores = jnp.where(seen[:, None, None, :, :], _rows_times(queries, keys) * q.shape[3] ** -0.5, _MASKED)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    total = weights.sum(axis=-1, keepdims=True)  # [B, K, R, T, 1], at least 1
    out = _rows_times(weights.astype(v.dtype), jnp.swapaxes(values, 2, 3))
    out = jnp.where(seen.any(axis=-1)[:, None, None, :, None], out / total, 0.0)
    return jnp.moveaxis(out, 3, 1).reshape(q.shape).astype(q.dtype)


def _heads_first(x: jax.Array, n_kv: int) -> jax.Array:
    """float[B, T, N, H] -> float[B, K, R, T, H]."""
    return jnp.moveaxis(x.reshape(*x.shape[:2], n_kv, -1, x.shape[3]), 1, 3)


def _rows_times(x: jax.Array, y: jax.Array) -> jax.Array:
    """float[B, K, R, T, A], float[B, K, S, A] -> float32[B, K, R, T, S], all R * T rows in one product."""
    rows = x.reshape(*x.shape[:2], -1, x.shape[4])
    out = jnp.einsum("bkqa,bksa->bkqs", rows, y, preferred_element_type=jnp.float32)
    return out.reshape(*x.shape[:4], y.shape[2])


class _Blocks(NamedTuple):
    """The arrays of :func:`attend` cut into blocks of tokens, heads before tokens; what is added sees nothing."""

    q: jax.Array  # float[n_q, B, K, R, block, H]
    k: jax.Array  # float[n_kv, B, K, block, H]
    v: jax.Array  # float[n_kv, B, K, block, H]
    of_q: tuple[Any, ...]  # a mask's fields of the queries, each int32[n_q, B, block], None of the others
    of_kv: tuple[Any, ...]  # a mask's fields of the columns, each int32[n_kv, B, block], None of the others
    order: jax.Array  # int32[n_q, n_kv]: key blocks, those first that the query block may see in any row
    n_seen: jax.Array  # int32[n_q]: how many it may see


def _cut(x: jax.Array, block: int, fill: int = 0) -> jax.Array:
    """[B, T, ...] -> [n, B, block, ...], the last block filled up."""
    n = -(-x.shape[1] // block)
    padding = [(0, 0), (0, n * block - x.shape[1])] + [(0, 0)] * (x.ndim - 2)
    x = jnp.pad(x, padding, constant_values=fill)
    return jnp.moveaxis(x.reshape(x.shape[0], n, block, *x.shape[2:]), 1, 0)


def _join(x: jax.Array, length: int) -> jax.Array:
    """[n, B, K, R, block, H] -> [B, T, N, H], the filling cut off."""
    x = jnp.moveaxis(x, (1, 0, 4), (0, 1, 2))
    return x.reshape(x.shape[0], -1, x.shape[3] * x.shape[4], x.shape[5])[:, :length]


def _blocks(q: jax.Array, k: jax.Array, v: jax.Array, mask: Mask, block: int) -> _Blocks:
    n_kv = k.shape[2]
    sizes = [-(-n // -(-n // block)) for n in (q.shape[1], k.shape[1])]  # even blocks
    parts = {name: x for name, x in mask._asdict().items() if x is not None}
    of_q, of_kv = (
        {name: _cut(x, size, -1) for name, x in parts.items() if name.startswith(side)}
        for side, size in zip(("q_", "kv_"), sizes, strict=True)
    )
    may = _may_see(of_q, of_kv)
    empty = dict.fromkeys(Mask._fields)
    return _Blocks(
        jnp.moveaxis(_cut(q.reshape(*q.shape[:2], n_kv, -1, q.shape[3]), sizes[0]), 2, 4),
        *(jnp.moveaxis(_cut(x, sizes[1]), 2, 3) for x in (k, v)),
        tuple((empty | of_q).values()),
        tuple((empty | of_kv).values()),
        jnp.argsort(~may, axis=1, stable=True).astype(jnp.int32),
        may.sum(axis=1, dtype=jnp.int32),
    )


def _may_see(of_q: dict[str, jax.Array], of_kv: dict[str, jax.Array]) -> jax.Array:
    """bool[n_q, n_kv]: False only where no query of the one block sees a column of the other, in any row.

    Told by the least and the largest segment and place of each block, so that the cost is linear in length.
    """

    def ends(x: jax.Array, real: jax.Array) -> tuple[jax.Array, jax.Array]:
        last = jnp.iinfo(jnp.int32).max
        return jnp.where(real, x, last).min(axis=2), jnp.where(real, x, -1).max(axis=2)  # empty: no overlap

    segment, real = of_kv["kv_segment"], of_kv["kv_segment"] >= 0
    low, high = (x[None, :] for x in ends(segment, real))
    may = jnp.zeros((), bool)
    for name in _Q_SEGMENTS:
        if name in of_q:
            first, last = (x[:, None] for x in ends(of_q[name], of_q[name] >= 0))
            may |= (first <= high) & (low <= last)
    if "q_at" in of_q:
        may &= ends(of_kv["kv_at"], real)[0][None, :] <= of_q["q_at"].max(axis=2)[:, None]
    return may.any(axis=2)


def _scores(q: jax.Array, k: jax.Array, of_q: tuple[Any, ...], of_kv: tuple[Any, ...]) -> jax.Array:
    """float32[B, K, R, T, S] of one pair of blocks, ``_MASKED`` where the query does not see the column."""
    seen = Mask(*(x if y is None else y for x, y in zip(of_q, of_kv, strict=True))).dense()
    return jnp.where(seen[:, None, None], _rows_times(q, k) * q.shape[-1] ** -0.5, _MASKED)


def _take(tree: Any, index: jax.Array) -> Any:
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, index, keepdims=False), tree)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _chunked(q: jax.Array, k: jax.Array, v: jax.Array, mask: Mask, block: int) -> jax.Array:
    """Blocks of queries one after another, each over the blocks of columns that it may see.

    The softmax is a running one: sums are rescaled as a larger score is met (arXiv 2205.14135, algorithm 1). The
    backward pass computes the scores again from the logarithm of each query's sum.
    """
    return _chunked_forward(q, k, v, mask, block)[0]


def _chunked_forward(q: jax.Array, k: jax.Array, v: jax.Array, mask: Mask, block: int) -> tuple[jax.Array, tuple]:
    cut = _blocks(q, k, v, mask, block)

    def of_block(args: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        queries, of_q, order, n_seen = args

        def meet(i: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            largest, total, out = carry
            keys, values, of_kv = _take((cut.k, cut.v, cut.of_kv), order[i])
            scores = _scores(queries, keys, of_q, of_kv)
            larger = jnp.maximum(largest, scores.max(axis=-1))
            weights, shrink = jnp.exp(scores - larger[..., None]), jnp.exp(largest - larger)
            more = _rows_times(weights.astype(v.dtype), jnp.swapaxes(values, 2, 3))
            return larger, total * shrink + weights.sum(axis=-1), out * shrink[..., None] + more

        nothing = jnp.zeros(queries.shape[:-1], jnp.float32)
        carry = (nothing + _LEAST, nothing, jnp.zeros(queries.shape, jnp.float32))
        largest, total, out = jax.lax.fori_loop(0, n_seen, meet, carry)
        total = jnp.where(total > 0, total, 1.0)  # a query that sees nothing: 0 / 1
        return (out / total[..., None]).astype(q.dtype), largest + jnp.log(total)

    out, log_total = jax.lax.map(of_block, (cut.q, cut.of_q, cut.order, cut.n_seen))
    out, log_total = checkpoint_name(_join(out, q.shape[1]), ATTENDED), checkpoint_name(log_total, ATTENDED)
    return out, (q, k, v, mask, out, log_total)


def _chunked_backward(block: int, kept: tuple, g: jax.Array) -> tuple[Any, ...]:
    q, k, v, mask, out, log_total = kept
    cut, scale = _blocks(q, k, v, mask, block), q.shape[3] ** -0.5
    size = cut.q.shape[4]
    slopes = jnp.moveaxis(_cut(g.reshape(*g.shape[:2], k.shape[2], -1, g.shape[3]), size), 2, 4)
    along = (g.astype(jnp.float32) * out.astype(jnp.float32)).sum(axis=-1)  # [B, T, N]
    along = jnp.moveaxis(_cut(along.reshape(*along.shape[:2], k.shape[2], -1), size), 2, 4)

    def of_block(sums: tuple[jax.Array, jax.Array], args: tuple[jax.Array, ...]) -> tuple[Any, jax.Array]:
        queries, slope, along, log_total, of_q, order, n_seen = args

        def meet(i: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            to_q, to_k, to_v = carry
            keys, values, of_kv = _take((cut.k, cut.v, cut.of_kv), order[i])
            weights = jnp.exp(_scores(queries, keys, of_q, of_kv) - log_total[..., None])
            inner = weights * (_rows_times(slope, values) - along[..., None]) * scale
            weights, inner = weights.astype(v.dtype), inner.astype(q.dtype)
            to_q += _rows_times(inner, jnp.swapaxes(keys, 2, 3))
            to_k = to_k.at[order[i]].add(_over_rows(inner, queries))
            return to_q, to_k, to_v.at[order[i]].add(_over_rows(weights, slope))

        to_q, *sums = jax.lax.fori_loop(0, n_seen, meet, (jnp.zeros(queries.shape, jnp.float32), *sums))
        return tuple(sums), to_q.astype(q.dtype)

    sums = (jnp.zeros(cut.k.shape, jnp.float32), jnp.zeros(cut.v.shape, jnp.float32))
    args = (cut.q, slopes, along, log_total, cut.of_q, cut.order, cut.n_seen)
    (to_k, to_v), to_q = jax.lax.scan(of_block, sums, args)
    to_k, to_v = (_join(x[:, :, :, None], k.shape[1]).astype(k.dtype) for x in (to_k, to_v))
    return _join(to_q, q.shape[1]), to_k, to_v, None


_chunked.defvjp(_chunked_forward, _chunked_backward)


def _over_rows(x: jax.Array, y: jax.Array) -> jax.Array:
    """float[B, K, R, T, S], float[B, K, R, T, H] -> float32[B, K, S, H], summed over all R * T rows."""
    x, y = (a.reshape(*a.shape[:2], -1, a.shape[4]) for a in (x, y))
    return jnp.einsum("bkqs,bkqh->bksh", x, y, preferred_element_type=jnp.float32)
