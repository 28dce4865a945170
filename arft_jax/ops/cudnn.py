"""Attention over whole sequences by NVIDIA's cuDNN kernel: no score ever leaves the chip, memory is linear in length.

The kernel is reached through ``jax.nn.dot_product_attention(implementation="cudnn")``, which masks by one length a
row. A row that holds several segments is therefore served segment by segment: each is moved to the row's start and
attended alone, which is exact, needs no [T, T] bias, and costs what the segments cost (Σ len², the kernel skips what
lies beyond a length). Rows of one trajectory, as GRPO has them, take one turn of that loop.

Departure from the kernel's own form for packed rows: JAX reaches it through private names only, it asks for Hopper,
and JAX 0.10 gives it wrong offsets where key/value heads are fewer than query heads (jax-ml/jax pull request 39521).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

TYPES = ("bfloat16", "float16")
_MULTIPLE = 64  # sequences are given to the kernel in whole tiles; older cuDNN refuses others in the backward pass


class SegmentRuns(NamedTuple):
    """Which run of adjacent columns of one segment each column lies in; runs of a row count from 0.

    Example: segment ids [4, 4, 7, -1] give order [0, 0, 1, -1] and n = 2.

    Args:
      order: int32[B, T], -1 on padding.
      n: int32[], most runs of any row.
    """

    order: jax.Array
    n: jax.Array


def segment_runs(segment_ids: jax.Array) -> SegmentRuns:
    """The runs of every row of int32[B, T] segment ids, -1 on padding."""
    before = jnp.pad(segment_ids[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    valid = segment_ids >= 0
    order = jnp.cumsum(valid & (segment_ids != before), axis=1, dtype=jnp.int32) - 1
    order = jnp.where(valid, order, -1)
    return SegmentRuns(order, order.max() + 1)


def _take(x: jax.Array, columns: jax.Array) -> jax.Array:
    """float[B, T, N, H] at int32[B, L] -> float[B, L, N, H]; columns outside are clipped."""
    columns = jnp.clip(columns, 0, x.shape[1] - 1)
    return jnp.take_along_axis(x, columns[:, :, None, None], axis=1)


class _Segment(NamedTuple):
    """Run j of every row, moved to the row's start.

    Args:
      here: bool[B, T], the columns of the run.
      to_front: int32[B, L], the column that each place of the moved row comes from.
      back: int32[B, T], the place of the moved row that each column goes to.
      length: int32[B], of the run; 1 where a row has no run j, whose result is dropped.
      valid: bool[B, L], the places that hold the run.
    """

    here: jax.Array
    to_front: jax.Array
    back: jax.Array
    length: jax.Array
    valid: jax.Array


def _segment(order: jax.Array, j: jax.Array) -> _Segment:
    t = order.shape[1]
    here = order == j
    start, n = jnp.argmax(here, axis=1).astype(jnp.int32)[:, None], here.sum(axis=1, dtype=jnp.int32)
    places = jnp.arange(-(-t // _MULTIPLE) * _MULTIPLE, dtype=jnp.int32)[None]
    back = jnp.arange(t, dtype=jnp.int32)[None] - start
    return _Segment(here, start + places, back, jnp.maximum(n, 1), places < n[:, None])


def _put(segment: _Segment, moved: jax.Array, into: jax.Array) -> jax.Array:
    """The run's own columns of ``into`` replaced; what the kernel left in places beyond the run is never read."""
    return jnp.where(segment.here[:, :, None, None], _take(moved, segment.back), into)


def _kernel(length: jax.Array, causal: bool, implementation: str, q: jax.Array, k: jax.Array, v: jax.Array):
    """One run a row, from the row's start."""
    try:
        with jax.numpy_dtype_promotion("standard"):  # JAX's own form mixes types where the caller may forbid it
            return jax.nn.dot_product_attention(
                q, k, v, is_causal=causal, query_seq_lengths=length, key_value_seq_lengths=length,
                implementation=implementation,
            )  # fmt: skip
    except RuntimeError as error:  # raised while tracing, where the library cannot be loaded
        raise ValueError(
            f"attention=cudnn must find NVIDIA's library (package nvidia-cudnn-cu12): {error} (config.model.attention)"
        ) from error


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _attend(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array, causal: bool, implementation: str):
    runs = segment_runs(segment_ids)

    def one(j: jax.Array, out: jax.Array) -> jax.Array:
        segment = _segment(runs.order, j)
        moved = (_take(x, segment.to_front) for x in (q, k, v))
        return _put(segment, _kernel(segment.length, causal, implementation, *moved), out)

    return jax.lax.fori_loop(0, runs.n, one, jnp.zeros_like(q))


def _forward(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array, causal: bool, implementation: str):
    return _attend(q, k, v, segment_ids, causal, implementation), (q, k, v, segment_ids)


def _backward(causal: bool, implementation: str, kept: tuple[jax.Array, ...], g: jax.Array) -> tuple:
    """A loop whose number of turns is data has no gradient of its own: this is it, each run attended again."""
    q, k, v, segment_ids = kept
    runs = segment_runs(segment_ids)

    def one(j: jax.Array, grads: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        segment = _segment(runs.order, j)
        moved = (_take(x, segment.to_front) for x in (q, k, v))
        pull = jax.vjp(functools.partial(_kernel, segment.length, causal, implementation), *moved)[1]
        part = jnp.where(segment.valid[:, :, None, None], _take(g, segment.to_front), jnp.zeros((), g.dtype))
        return tuple(_put(segment, new, old) for new, old in zip(pull(part), grads, strict=True))

    return (*jax.lax.fori_loop(0, runs.n, one, tuple(jnp.zeros_like(x) for x in (q, k, v))), None)


_attend.defvjp(_forward, _backward)


def attend_cudnn(
    q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array, *, causal: bool, implementation: str = "cudnn"
) -> jax.Array:
    """softmax(q kᵀ / √H) v within segments, with its gradient.

    The backward pass attends each segment once more forward; residuals are q, k, v and the segment ids.

    Args:
      q: float[B, T, N, H], bfloat16 or float16; H a multiple of 8 and at most 128.
      k, v: float[B, T, K, H] in q's type; N is a multiple of K.
      segment_ids: int32[B, T], -1 for padding, which sees nothing, is seen by nothing and gives 0. The columns of a
        segment are adjacent: an id that comes back after another one is a segment of its own.
      causal: a token sees its own segment's columns up to its own; else all of them.
      implementation: ``cudnn``, or ``xla`` for the same on any device and in any type.

    Returns:
      float[B, T, N, H] in q's type.

    Raises:
      ValueError: another type, a head dim that the kernel has not, or no library.
    """
    if implementation == "cudnn" and (q.dtype.name not in TYPES or q.shape[-1] % 8 or q.shape[-1] > 128):
        raise ValueError(
            f"attention=cudnn must have {' or '.join(TYPES)} and a head dim that is a multiple of 8, at most 128: got "
            f"{q.dtype.name}[..., {q.shape[-1]}] (config.model.attention, config.model.dtype)"
        )
    return _attend(q, k, v, segment_ids, causal, implementation)
