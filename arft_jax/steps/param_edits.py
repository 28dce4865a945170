"""The programs that put one layer into a stacked, sharded parameter, take one out of it, or merge adapters into it."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from arft_jax.models.lora import merged


def _put_layer(stacked: jax.Array, layer: jax.Array, index: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_index_in_dim(stacked, layer.astype(stacked.dtype), index, 0)


def _take_layer(stacked: jax.Array, index: jax.Array) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(stacked, index, 0, keepdims=False)


def zeros(shape: Sequence[int], dtype: Any, sharding: jax.sharding.Sharding | None) -> jax.Array:
    """A parameter to be filled, made where it will lie; on the default device where ``sharding`` is None."""

    def make() -> jax.Array:
        return jnp.zeros(tuple(shape), dtype)

    return jax.jit(make, out_shardings=sharding)()


def make_put_layer(sharding: jax.sharding.Sharding | None) -> Callable[..., jax.Array]:
    """``put(stacked, layer, index) -> stacked`` with stacked[index] = layer, in the stack's type.

    The stacked array is donated, so nothing but the layer is held beside it; the index is data, so that one
    compilation serves all layers of a shape.

    Args:
      sharding: of the stacked array, before and after; None: as it comes.
    """
    return jax.jit(_put_layer, donate_argnums=0, out_shardings=sharding)


def make_take_layer(sharding: jax.sharding.Sharding | None) -> Callable[..., jax.Array]:
    """``take(stacked, index) -> stacked[index]``, compiled once a shape.

    Args:
      sharding: of the layer; None: split as the stacked array is.
    """
    return jax.jit(_take_layer, out_shardings=sharding)


def cast(x: jax.Array, dtype: Any) -> jax.Array:
    """x in this type, where it lies; x itself where it has the type already."""
    if x.dtype == dtype:
        return x
    return jax.block_until_ready(jax.jit(lambda a: a.astype(dtype), out_shardings=x.sharding)(x))


def put_corner(table: jax.Array, part: jax.Array) -> jax.Array:
    """``table`` with ``part`` from index 0 of every axis on, placed as ``table``, which is donated.

    Of a table of 5 rows and a part of 3: the part's rows, then the last two of the table.
    """

    def put(table: jax.Array, part: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_slice(table, part.astype(table.dtype), (0,) * table.ndim)

    return jax.jit(put, donate_argnums=0, out_shardings=table.sharding)(table, part)


def make_merge(scale: float) -> Callable[[nnx.State], nnx.State]:
    """``merge(params)`` -> the parameters without adapters that compute the same; see ``models.lora.merged``."""
    return jax.jit(functools.partial(merged, scale=scale))


def make_copy(sharding: jax.sharding.Sharding | None) -> Callable[[jax.Array], jax.Array]:
    """``copy(x) -> x`` in memory of its own: what the host reads of it is let go with it, not kept by ``x``.

    Args:
      sharding: of the copy; None: as ``x``.
    """
    return jax.jit(jnp.copy, out_shardings=sharding)
