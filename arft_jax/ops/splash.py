"""Attention over whole sequences by the TPU kernel that JAX ships: no score ever leaves the chip's fast memory.

Splash attention (jax.experimental.pallas.ops.tpu.splash_attention) in its grouped form: the R query heads of a kv head
share its keys. Heads are padded to 128 numbers, sequences to whole blocks; padding is a segment of its own.
"""

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

LANES = 128
MAX_BLOCK = 512


def _pad(x: jax.Array, dim: int, size: int, fill: int = 0) -> jax.Array:
    widths = [(0, 0)] * x.ndim
    widths[dim] = (0, size - x.shape[dim])
    return jnp.pad(x, widths, constant_values=fill)


def attend_splash(
    q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array, *, causal: bool, interpret: bool = False
) -> jax.Array:
    """softmax(q kᵀ / √H) v within segments, with its gradient.

    Args:
      q: float[B, T, N, H].
      k, v: float[B, T, K, H]; N is a multiple of K.
      segment_ids: int32[B, T], -1 for padding, which sees nothing, is seen by nothing and gives 0.
      causal: a token sees its own segment's columns up to its own; else all of them.
      interpret: run the kernel step by step on any device.

    Returns:
      float[B, T, N, H] in q's type.
    """
    b, t, n, h = q.shape
    n_kv = k.shape[2]
    block = min(MAX_BLOCK, -(-t // LANES) * LANES)
    length, width = -(-t // block) * block, -(-h // LANES) * LANES
    scaled = (q.astype(jnp.float32) * h**-0.5).astype(q.dtype)
    q_heads, k_heads, v_heads = (
        _pad(_pad(jnp.moveaxis(x, 1, 2), 2, length), 3, width) for x in (scaled, k, v)
    )  # [B, heads, length, width]
    q_heads = q_heads.reshape(b, n_kv, n // n_kv, length, width)
    ids = _pad(segment_ids, 1, length, -1)
    # Equal ids see each other: the keys' padding must be called otherwise than the queries'.
    segments = kernel.SegmentIds(q=ids, kv=jnp.where(ids < 0, -2, ids))
    shape = (length, length)
    one = masks.CausalMask(shape) if causal else masks.FullMask(shape)
    blocks = kernel.BlockSizes(
        block_q=block, block_kv=block, block_kv_compute=block, block_q_dkv=block, block_kv_dkv=block,
        block_kv_dkv_compute=block, block_q_dq=block, block_kv_dq=block,
    )  # fmt: skip
    run = kernel.make_splash_mqa(
        masks.MultiHeadMask([one] * (n // n_kv)), block_sizes=blocks, head_shards=1, q_seq_shards=1, interpret=interpret
    )
    over_heads = jax.vmap(run, in_axes=(0, 0, 0, None))
    out = jax.vmap(over_heads)(q_heads, k_heads, v_heads, segments)
    out = jnp.moveaxis(out.reshape(b, n, length, width)[:, :, :t, :h], 1, 2)
    return jnp.where((segment_ids >= 0)[:, :, None, None], out, jnp.zeros((), out.dtype)).astype(q.dtype)
