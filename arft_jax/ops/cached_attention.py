"""Attention of a few new tokens over a key/value cache whose heads stand before its columns.

Attention(q, k, v) = softmax(q kᵀ / √H) v (arXiv 1706.03762, eq. 1), grouped heads after arXiv 2305.13245. A token sees
the columns up to its own; the others have weight 0, so that they may hold any finite number (0 · NaN is NaN). Every
product has its batch axes first and keys have H before the columns, so that none is turned in memory.
"""

import jax
import jax.numpy as jnp

from arft_jax.ops.shapes import check_axes

_MASKED = -1e30
CHUNK_SCORES = 2**20  # a row and head: above, the queries are served in chunks


def attend_cached(q: jax.Array, k: jax.Array, v: jax.Array, cols: jax.Array) -> jax.Array:
    """softmax(q kᵀ / √H) v over the columns 0 .. cols[r, t]; softmax is float32.

    Example: with cols [[5, 6]] the second token sees columns 0 .. 6.

    Args:
      q: float[R, T, N, H].
      k: float[R, K, H, S]; N is a multiple of K; query head n reads kv head n // (N/K).
      v: float[R, K, S, H].
      cols: int32[R, T]; a column S or more sees all of them.

    Returns:
      float[R, T, N, H] in q's type.

    Raises:
      ValueError: shapes that do not fit.
    """
    sizes = check_axes(q=(q, "RTNH"), k=(k, "RKHS"), v=(v, "RKSH"), cols=(cols, "RT"))
    if sizes["N"] % sizes["K"]:
        raise ValueError(f"query heads must be a multiple of kv heads: got N={sizes['N']}, K={sizes['K']}")
    n, chunk = sizes["T"], max(1, CHUNK_SCORES // sizes["S"])
    if n <= chunk:
        return _attend(q, k, v, cols)
    n_chunks = -(-n // chunk)

    def cut(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, [(0, 0), (0, n_chunks * chunk - n)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(x.shape[0], n_chunks, chunk, *x.shape[2:]), 1, 0)

    out = jax.lax.map(lambda part: _attend(part[0], k, v, part[1]), (cut(q), cut(cols)))
    return jnp.moveaxis(out, 0, 1).reshape(q.shape[0], n_chunks * chunk, *q.shape[2:])[:, :n]


def _attend(q: jax.Array, k: jax.Array, v: jax.Array, cols: jax.Array) -> jax.Array:
    """Heads that share keys stand beside the tokens as rows of one product: float[R, K, T * N/K, H]."""
    n_rows, n_new, n_heads, head_dim = q.shape
    n_kv, length = v.shape[1], v.shape[2]
    shared = n_heads // n_kv
    grouped = jnp.moveaxis(q.reshape(n_rows, n_new, n_kv, shared, head_dim), 2, 1)
    grouped = grouped.reshape(n_rows, n_kv, n_new * shared, head_dim)
    scores = jnp.einsum("rkqh,rkhs->rkqs", grouped, k, preferred_element_type=jnp.float32) * head_dim**-0.5
    seen = jnp.arange(length, dtype=cols.dtype)[None, None, :] <= cols[:, :, None]  # [R, T, S]
    seen = jnp.broadcast_to(seen[:, :, None, :], (n_rows, n_new, shared, length)).reshape(n_rows, 1, -1, length)
    scores = jnp.where(seen, scores, _MASKED)
    weights = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
    total = weights.sum(axis=-1, keepdims=True)
    out = jnp.einsum("rkqs,rksh->rkqh", weights.astype(v.dtype), v, preferred_element_type=jnp.float32) / total
    out = out.reshape(n_rows, n_kv, n_new, shared, head_dim)
    return jnp.moveaxis(out, 1, 2).reshape(q.shape).astype(q.dtype)
