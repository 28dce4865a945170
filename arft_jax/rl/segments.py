"""Sums over the trajectories of packed rows: a row holds several, each a segment with a number of its own.

Without segment numbers each row is one trajectory. What stands outside the mask, values and numbers alike, is not read.
"""

import jax
import jax.numpy as jnp


def segment_sums(values: jax.Array, mask: jax.Array, segment_ids: jax.Array | None) -> jax.Array:
    """The sum over each trajectory's masked tokens.

    Worked, values [1, 2, 3, 4], mask [1, 1, 0, 1], segments [0, 0, 1, 1]: [3, 4, 0, 0].

    Args:
      values: float32[B, T].
      mask: bool[B, T].
      segment_ids: int32[B, T], from 0 in each row; None: each row is one trajectory.

    Returns:
      float32[B, S], S = T, or 1 without segments; column s is the trajectory of that number, 0 where there is none.
    """
    values = jnp.where(mask, values, 0.0)
    if segment_ids is None:
        return values.sum(axis=1, keepdims=True)
    own = jnp.where(mask, segment_ids, 0)
    return jax.vmap(lambda v, i: jax.ops.segment_sum(v, i, num_segments=v.shape[0]))(values, own)


def spread(sums: jax.Array, mask: jax.Array, segment_ids: jax.Array | None) -> jax.Array:
    """Each masked token's figure of its trajectory, float32[B, T] of float32[B, S]; 0 off the mask."""
    if segment_ids is None:
        by_token = jnp.broadcast_to(sums, mask.shape)
    else:
        by_token = jnp.take_along_axis(sums, jnp.where(mask, segment_ids, 0), axis=1)
    return jnp.where(mask, by_token, 0.0)


def n_tokens_of(mask: jax.Array, segment_ids: jax.Array | None) -> jax.Array:
    """float32[B, S], the masked tokens of each trajectory."""
    return segment_sums(jnp.ones(mask.shape, jnp.float32), mask, segment_ids)
