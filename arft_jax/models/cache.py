"""The key/value cache of the decoder: one array for all layers with a slot axis."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class KVCache(NamedTuple):
    """Rotated keys, and values.

    Args:
      k, v: float[L, n_slots, S, K, H]; column s of a slot is the slot's s-th token.
    """

    k: jax.Array
    v: jax.Array


def init_cache(text_config: Any, n_slots: int, cache_len: int, dtype: Any = jnp.float32) -> KVCache:
    """An empty cache of n_layers * n_slots * cache_len * kv heads * head_dim numbers, twice.

    Args:
      text_config: a TextConfig (n_layers, n_kv_heads, head_dim are read).
      n_slots: sequences that live at once.
      cache_len: S, tokens a slot can hold.
      dtype: of the cache.

    Raises:
      ValueError: n_slots or cache_len below 1.
    """
    if n_slots < 1 or cache_len < 1:
        raise ValueError(f"n_slots and cache_len must be at least 1: got n_slots={n_slots}, cache_len={cache_len}")
    shape = (text_config.n_layers, n_slots, cache_len, text_config.n_kv_heads, text_config.head_dim)
    return KVCache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))
