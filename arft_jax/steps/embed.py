"""The program that turns images into one vector each: the vision tower's image tokens, averaged."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx


def _embed(graphdef, params, patches, layout, image_of) -> jax.Array:
    features = nnx.merge(graphdef, params)(patches, layout)[0].astype(jnp.float32)
    n = features.shape[0]
    sums = jax.ops.segment_sum(features, image_of, num_segments=n)  # padding's image is n: no segment, dropped
    lengths = jnp.sqrt(jnp.sum(jnp.square(sums), axis=-1, keepdims=True))  # of the sum or the mean: one direction
    return sums / jnp.maximum(lengths, jnp.finfo(jnp.float32).tiny)


def make_embed(graphdef: nnx.GraphDef) -> jax.stages.Wrapped:
    """Compiles the pooling for a vision tower.

    Args:
      graphdef: of ``nnx.split(tower)``.

    Returns:
      embed(params, patches float[1, N, patch_dim], layout with a leading axis 1, image_of int32[F]) -> float32[F, D],
      F = N // merge² image tokens. Token j belongs to image ``image_of[j]``, F: to none; row i is image i's
      mean token at length 1, 0 where there is no such image. Two images of two tokens, then padding: [0, 0, 1, 1, 5].
    """
    return jax.jit(functools.partial(_embed, graphdef))
