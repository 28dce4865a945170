"""The sampler's state: one donated pytree with a leading slot axis.

Invariant of a row: ``tokens[:length]`` is its stream; KV columns below ``length - 1`` are cached; the
token at ``length - 1`` is fed (again) by the next decode step, which rewrites its own column. So a pause
needs nothing but the row's status, and an injected segment is fed behind the token that stopped the turn.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from arft_jax.models.cache import KVCache
from arft_jax.sharding import BATCH_AXES, Placement, partition_spec

FREE, RUNNING, STOPPED = 0, 1, 2
BUDGET = -2  # stop_code of a turn that reached its limit
NO_STOP = -1


class SlotState(NamedTuple):
    """N slots of S positions.

    tokens int32[N, S]; logps float32[N, S], nats, 0 where not sampled; length, next_position, limit,
    automaton, status, stop_code, task, row int32[N]. ``next_position`` is the M-RoPE position of the
    token at ``length``; ``limit`` the length at which the turn must stop; ``stop_code`` the index of the
    stop string, ``n_stops`` for the end token, or BUDGET.
    """

    tokens: jax.Array
    logps: jax.Array
    length: jax.Array
    next_position: jax.Array
    limit: jax.Array
    automaton: jax.Array
    status: jax.Array
    stop_code: jax.Array
    task: jax.Array
    row: jax.Array
    cache: KVCache
    features: jax.Array  # [n_features, D], the image tokens shared by slots


def state_shardings(state: SlotState, placement: Placement) -> SlotState:
    """Slots over (data, fsdp), kv heads over tensor; the features, which any slot may read, whole.

    Args:
      state: arrays or their shapes.
      placement: the mesh.
    """
    n_kv_heads = jax.tree.leaves(state.cache.k)[0].shape[-3]
    heads = partition_spec("cache", ("kv_heads",), (n_kv_heads,), placement.mesh)
    stack = () if state.cache.is_unstacked else (None,)
    cache = NamedSharding(placement.mesh, PartitionSpec(*stack, BATCH_AXES, *heads))
    places = jax.tree.map(lambda _: placement.split(0), state)
    return places._replace(cache=jax.tree.map(lambda _: cache, state.cache), features=placement.whole)


def make_state(make: Callable[[], SlotState], placement: Placement) -> SlotState:
    """What ``make`` makes, each device making its own share."""
    return jax.jit(make, out_shardings=state_shardings(jax.eval_shape(make), placement))()


def init_state(cache: KVCache, n_features: int, dim: int, dtype: Any = None) -> SlotState:
    """All slots free; sizes follow from the cache. ``dtype`` is the features', the cache's where None."""
    n_slots, length = cache.n_slots, cache.length

    def ints():
        return jnp.zeros((n_slots,), jnp.int32)

    return SlotState(
        tokens=jnp.zeros((n_slots, length), jnp.int32),
        logps=jnp.zeros((n_slots, length), jnp.float32),
        length=ints(),
        next_position=ints(),
        limit=ints(),
        automaton=ints(),
        status=ints(),
        stop_code=ints(),
        task=ints(),
        row=ints(),
        cache=cache,
        features=jnp.zeros((n_features, dim), dtype or cache.dtype),
    )
