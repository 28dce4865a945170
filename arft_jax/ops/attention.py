"""Scaled dot-product attention with grouped key/value heads: the one door for every kernel.

Attention(q, k, v) = softmax(q kᵀ / √H) v (arXiv 1706.03762, eq. 1), grouped heads after arXiv 2305.13245.
"""

import jax
import jax.numpy as jnp

from arft_jax.ops.shapes import check_axes

_MASKED = -1e30  # finite, so that a row with nothing to attend to has no NaN in its gradient


def attend(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
    """softmax(q kᵀ / √H) v over the columns where ``mask`` is True; query head n reads kv head n // (N/K).

    Softmax is float32. The division by the sum comes after the second product: it then touches
    [T, H] numbers a head instead of [T, S]. A row without any True gives 0.

    Args:
      q: float[B, T, N, H].
      k, v: float[B, S, K, H]; N is a multiple of K.
      mask: bool[B, T, S].

    Returns:
      float[B, T, N, H] in q's type.

    Raises:
      ValueError: shapes do not fit.
    """
    sizes = check_axes(q=(q, "BTNH"), k=(k, "BSKH"), v=(v, "BSKH"), mask=(mask, "BTS"))
    n_heads, n_kv = sizes["N"], sizes["K"]
    if n_heads % n_kv:
        raise ValueError(f"query heads must be a multiple of kv heads: got N={n_heads}, K={n_kv}")
    grouped = q.reshape(*q.shape[:2], n_kv, n_heads // n_kv, q.shape[3])
    scores = jnp.einsum("btkrh,bskh->bkrts", grouped, k, preferred_element_type=jnp.float32)
    scores = jnp.where(mask[:, None, None, :, :], scores * q.shape[3] ** -0.5, _MASKED)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    total = weights.sum(axis=-1, keepdims=True)  # [B, K, R, T, 1], at least 1
    # T before H as in the scores, turned afterwards: asking the product itself for [B, T, ...] takes XLA's
    # CPU backend three times as long.
    out = jnp.einsum("bkrts,bskh->bkrth", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    out = jnp.where(mask.any(axis=-1)[:, None, None, :, None], out / total, 0.0)
    return jnp.moveaxis(out, 3, 1).reshape(q.shape).astype(q.dtype)
