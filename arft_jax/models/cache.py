"""The key/value cache of the decoder: layers with a slot axis, behind ``write`` and ``read``.

Layers are stacked in one array, which a scan over layers walks through, or unstacked, one array each. On a CPU and a
GPU a product takes whole arrays, so that a layer of the stack is copied before it is read: on a CPU a third of decode's
time. The TPU compiler reports no such copies, and a scan compiles faster than its layers one by one.

An unstacked cache keeps a head's keys with the columns last, as the product with a query reads them. With the columns
first a CPU transposes the keys at each token, which takes three times as long.

Keys and values may be kept in fewer bits than they are computed in: int8 or float8, both with one scale a token and
head (symmetric, as in arXiv 2402.02750 without its grouping). float8_e4m3fn needs it too: it has no infinity, a number
beyond 448 becomes NaN, and Qwen2.5's keys, which carry a bias and no norm, may reach hundreds. With the scale no finite
number becomes NaN, so that what a slot held before needs no cleaning: attention gives it weight 0, and 0 · finite is 0.
A bias far above the rest of a key takes up the range: of the two, int8 then loses far less.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

DTYPES = ("", "float32", "bfloat16", "int8", "float8_e4m3fn")  # "": the compute type
_LARGEST = {"int8": 127.0, "float8_e4m3fn": 448.0}  # of the types with scales: what the largest number is scaled to


Layers = jax.Array | tuple[jax.Array, ...]


class KVCache(NamedTuple):
    """Rotated keys, and values. Heads stand before columns: a head's columns then lie together in memory.

    Args:
      k: [L, n_slots, K, S, H], or L arrays [n_slots, K, H, S]; column s of a slot is the slot's s-th token.
      v: [L, n_slots, K, S, H], or L arrays [n_slots, K, S, H].
      k_scale, v_scale: float32, as k and v without H, where these are int8 or float8, else None.
    """

    k: Layers
    v: Layers
    k_scale: Layers | None = None
    v_scale: Layers | None = None

    @property
    def is_unstacked(self) -> bool:
        """Whether each layer is an array of its own."""
        return isinstance(self.k, tuple)

    @property
    def n_slots(self) -> int:
        """Sequences that live at once."""
        return self.v[0].shape[0] if self.is_unstacked else self.v.shape[1]

    @property
    def length(self) -> int:
        """S, tokens that a slot can hold."""
        return jax.tree.leaves(self.v)[0].shape[-2]

    @property
    def dtype(self) -> Any:
        """In which keys and values are kept."""
        return jax.tree.leaves(self.k)[0].dtype


def init_cache(
    text_config: Any, n_slots: int, cache_len: int, dtype: Any = jnp.float32, unstacked: bool = False
) -> KVCache:
    """An empty cache of n_layers * n_slots * cache_len * kv heads * head_dim numbers, twice.

    Args:
      text_config: a TextConfig (n_layers, n_kv_heads, head_dim are read).
      n_slots: sequences that live at once.
      cache_len: S, tokens a slot can hold.
      dtype: of the cache.
      unstacked: an array for each layer.

    Raises:
      ValueError: n_slots or cache_len below 1.
    """
    if n_slots < 1 or cache_len < 1:
        raise ValueError(f"n_slots and cache_len must be at least 1: got n_slots={n_slots}, cache_len={cache_len}")
    n_layers, slot = text_config.n_layers, (n_slots, text_config.n_kv_heads)

    def full(value: float, kind: Any, *shape: int) -> Layers:
        if unstacked:
            return tuple(jnp.full((*slot, *shape), value, kind) for _ in range(n_layers))
        return jnp.full((n_layers, *slot, *shape), value, kind)

    scales = ()
    if jnp.dtype(dtype).name in _LARGEST:
        scales = (full(1, jnp.float32, cache_len), full(1, jnp.float32, cache_len))
    h = text_config.head_dim
    keys = (h, cache_len) if unstacked else (cache_len, h)
    return KVCache(full(0, dtype, *keys), full(0, dtype, cache_len, h), *scales)


def write(
    cache: KVCache, layer: jax.Array | int, slots: jax.Array, cols: jax.Array, k: jax.Array, v: jax.Array
) -> KVCache:
    """Puts keys and values in place.

    Args:
      cache: to change.
      layer: int32[]; a Python int for an unstacked cache.
      slots: int32[R].
      cols: int32[R, T]; S or more: dropped.
      k, v: float[R, T, K, H].
    """
    heads = jnp.arange(k.shape[2], dtype=cols.dtype)[None, None, :]
    place = (slots[:, None, None], heads, cols[:, :, None])

    def put(old: Layers, new: jax.Array, columns_last: bool = False) -> Layers:
        at = _at(place, columns_last)
        if isinstance(old, tuple):
            one = old[layer].at[at].set(new.astype(old[layer].dtype), mode="drop")
            return (*old[:layer], one, *old[layer + 1 :])
        return old.at[(layer, *at)].set(new.astype(old.dtype), mode="drop")

    if cache.k_scale is None:
        return KVCache(put(cache.k, k, cache.is_unstacked), put(cache.v, v))
    (k, k_scale), (v, v_scale) = quantise(k, cache.dtype), quantise(v, cache.dtype)
    k, v = put(cache.k, k, cache.is_unstacked), put(cache.v, v)
    return KVCache(k, v, put(cache.k_scale, k_scale), put(cache.v_scale, v_scale))


def read(
    cache: KVCache, layer: jax.Array | int, slots: jax.Array | None, columns: int, dtype: Any
) -> tuple[jax.Array, jax.Array]:
    """Keys [R, K, H, columns] and values [R, K, columns, H]: the first columns of the slots, of all where None."""
    columns_last = cache.is_unstacked

    def take(a: Layers, columns_last: bool = False) -> jax.Array:
        if isinstance(a, tuple):
            rows = slice(None) if slots is None else slots
            return a[layer][_at((rows, slice(None), slice(columns)), columns_last)]
        one = jax.lax.dynamic_index_in_dim(a, layer, 0, keepdims=False)
        return one[:, :, :columns] if slots is None else one[slots, :, :columns]

    k, v = take(cache.k, columns_last), take(cache.v)
    if cache.k_scale is not None:
        k_scale, v_scale = take(cache.k_scale), take(cache.v_scale)
        k = k.astype(jnp.float32) * jnp.expand_dims(k_scale, 2 if columns_last else 3)
        v = v.astype(jnp.float32) * v_scale[..., None]
    k, v = k.astype(dtype), v.astype(dtype)
    return k if columns_last else jnp.swapaxes(k, 2, 3), v


def first_columns(cache: KVCache, n: int) -> KVCache:
    """A cache of its own of the first n columns, for many reads to share; of an unstacked cache."""
    k = tuple(a[..., :n] for a in cache.k)
    return KVCache(k, *jax.tree.map(lambda a: a[:, :, :n], cache[1:]))


def put_columns(cache: KVCache, part: KVCache, cols: jax.Array) -> KVCache:
    """The cache with columns of a part of it, :func:`first_columns` written to since, in place of its own.

    Args:
      cache: the whole.
      part: its first columns.
      cols: int32[n_slots, T], of each slot; beyond the part's end: none.
    """
    slots = jnp.arange(cache.n_slots, dtype=cols.dtype)[:, None, None]
    heads = jnp.arange(jax.tree.leaves(cache.v)[0].shape[1], dtype=cols.dtype)[None, :, None]
    from_ = (slots, heads, jnp.minimum(cols, part.length - 1)[:, None, :])
    to = (slots, heads, jnp.where(cols < part.length, cols, cache.length)[:, None, :])

    def put(whole: jax.Array, some: jax.Array, columns_last: bool = False) -> jax.Array:
        return whole.at[_at(to, columns_last)].set(some[_at(from_, columns_last)], mode="drop")

    k = tuple(put(whole, some, True) for whole, some in zip(cache.k, part.k, strict=True))
    return KVCache(k, *jax.tree.map(put, cache[1:], part[1:]))


def _at(place: tuple[Any, Any, Any], columns_last: bool) -> tuple[Any, ...]:
    """Index of (slots, heads, columns) where H stands behind the columns, or before; arrays put H last in both."""
    slots, heads, cols = place
    return (slots, heads, slice(None), cols) if columns_last else (slots, heads, cols)


def quantise(x: jax.Array, dtype: Any) -> tuple[jax.Array, jax.Array]:
    """x ≈ q · scale, the largest |q| being the type's: (float32[..., H] that the type holds or rounds, float32[...]).

    Example: [2, -1, 0.3] in int8 has scale 2 / 127 and q = [127, -64, 19] (-63.5 is rounded to even).

    Args:
      x: float[..., H]; each of the leading places has a scale of its own.
      dtype: int8 or float8_e4m3fn.
    """
    x, largest = x.astype(jnp.float32), _LARGEST[jnp.dtype(dtype).name]
    scale = jnp.maximum(jnp.abs(x).max(axis=-1), 1e-20) / largest
    q = x / scale[..., None]
    return (jnp.round(q) if jnp.issubdtype(dtype, jnp.integer) else q), scale
