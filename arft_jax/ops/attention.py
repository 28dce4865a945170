"""Scaled dot-product attention with grouped key/value heads: the one door for every kernel.

Attention(q, k, v) = softmax(q kᵀ / √H) v (arXiv 1706.03762, eq. 1), grouped heads after arXiv 2305.13245. Who sees whom
is told by :class:`Mask`, a few numbers a token: a [T, S] array of booleans never needs to exist, so the chunked form's
memory is linear in length.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from arft_jax.ops.shapes import check_axes
from arft_jax.words import ATTENTION_FORMS

_MASKED = -1e30  # finite, so that a row with nothing to attend to has no NaN in its gradient
_PLAIN_UP_TO = 2**20  # scores a head: above, "auto" works in chunks
CHUNK_SCORES = 2**20  # scores a head of one chunk of queries


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
      implementation: ``plain`` holds all T * S scores of a head at once; ``chunked`` those of a chunk of queries, in
        the backward pass too; ``auto`` is plain up to 2^20 scores a head and chunked above.

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
    return _chunked(q, k, v, mask, chunk=min(sizes["T"], max(16, CHUNK_SCORES // sizes["S"])))


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
    """The division by the sum comes after the second product: it then touches [T, H] numbers a head, not [T, S]."""
    n_heads, n_kv = q.shape[2], k.shape[2]
    seen = mask.dense()
    grouped = q.reshape(*q.shape[:2], n_kv, n_heads // n_kv, q.shape[3])
    scores = jnp.einsum("btkrh,bskh->bkrts", grouped, k, preferred_element_type=jnp.float32)
    scores = jnp.where(seen[:, None, None, :, :], scores * q.shape[3] ** -0.5, _MASKED)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    total = weights.sum(axis=-1, keepdims=True)  # [B, K, R, T, 1], at least 1
    # T before H as in the scores, turned afterwards: asking the product itself for [B, T, ...] takes XLA's
    # CPU backend three times as long.
    out = jnp.einsum("bkrts,bskh->bkrth", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    out = jnp.where(seen.any(axis=-1)[:, None, None, :, None], out / total, 0.0)
    return jnp.moveaxis(out, 3, 1).reshape(q.shape).astype(q.dtype)


def _chunked(q: jax.Array, k: jax.Array, v: jax.Array, mask: Mask, *, chunk: int) -> jax.Array:
    """Chunks of queries one after another, each computed again in the backward pass."""
    n = q.shape[1]
    n_chunks = -(-n // chunk)

    def cut(x: jax.Array, fill: int) -> jax.Array:
        padding = [(0, 0), (0, n_chunks * chunk - n)] + [(0, 0)] * (x.ndim - 2)
        x = jnp.pad(x, padding, constant_values=fill)
        return jnp.moveaxis(x.reshape(x.shape[0], n_chunks, chunk, *x.shape[2:]), 1, 0)

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def one(args: tuple[jax.Array, dict[str, jax.Array]]) -> jax.Array:
        queries, of_queries = args
        return _plain(queries, k, v, mask._replace(**of_queries))

    of_queries = {name: getattr(mask, name) for name in ("q_segment", "q_at", "q_prefix")}
    of_queries = {name: cut(x, -1) for name, x in of_queries.items() if x is not None}
    out = jax.lax.map(one, (cut(q, 0), of_queries))
    return jnp.moveaxis(out, 0, 1).reshape(q.shape[0], n_chunks * chunk, *q.shape[2:])[:, :n]
