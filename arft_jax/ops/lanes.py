"""Operations whose rows are split over the lanes of a mesh, with the exchanges between lanes written out.

Left to itself the compiler gathers the unembedding in every chunk, and adds up the whole gradient of a kernel on every
device. Here each lane works on its own rows; what is exchanged is a kernel before and a float32 gradient behind. The
axes of the mesh that are not lanes stay the compiler's.
"""

import functools
import math
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec

from arft_jax.ops import linear, logps

LANES = ("data", "fsdp")  # mesh axes over which rows are split; parameters are split over the second
_TWO_STEPS_FROM = 16  # lanes


def scatter(x: jax.Array, size: int, dim: int) -> jax.Array:
    """The sum over fsdp of x, of which lane f keeps the f-th part of axis ``dim``; within a shard_map.

    Over many lanes in two steps, among those of one column of lanes and then among those of one row: of one step over
    64 lanes the compiler for TPUs makes an all-reduce, which sends twice as much.

    Args:
      x: float[...], the same axes on every lane.
      size: lanes of fsdp.
      dim: which axis is split.
    """
    add = functools.partial(jax.lax.psum_scatter, axis_name="fsdp", scatter_dimension=dim, tiled=True)
    inner = max((m for m in range(1, math.isqrt(size) + 1) if size % m == 0), default=1)
    if size < _TWO_STEPS_FROM or inner == 1:
        return add(x)
    outer = size // inner
    x = add(x, axis_index_groups=[[inner * o + i for o in range(outer)] for i in range(inner)])
    return add(x, axis_index_groups=[[inner * o + i for i in range(inner)] for o in range(outer)])


def token_logps(
    mesh: Mesh,
    hidden: jax.Array,
    kernel: jax.Array,
    tokens: jax.Array,
    allowed: jax.Array,
    source: jax.Array | None,
    mask: jax.Array | None,
    **settings: Any,
) -> tuple[jax.Array, jax.Array]:
    """``ops.logps.token_logps``: each lane compacts and scores its own rows, and skips its own unused chunks.

    The kernel, D of it split over fsdp, is gathered once before the chunks; its gradient is summed and split again once
    behind them.
    """
    exchange = logps.Exchange(
        gather=functools.partial(jax.lax.all_gather, axis_name="fsdp", axis=0, tiled=True),
        scatter=functools.partial(scatter, size=mesh.shape["fsdp"], dim=0),
    )

    def of_lane(hidden, kernel, tokens, allowed, source, mask):
        return logps.token_logps(
            hidden, kernel, tokens, allowed, source=source, mask=mask, exchange=exchange, **settings
        )

    rows = PartitionSpec(LANES)
    run = jax.shard_map(
        of_lane, mesh=mesh, in_specs=(rows, PartitionSpec("fsdp"), rows, PartitionSpec(), rows, rows),
        out_specs=rows, axis_names=set(LANES), check_vma=False,
    )  # fmt: skip
    return run(hidden, kernel, tokens, allowed, source, mask)


def weight_gradient(mesh: Mesh, x: jax.Array, g: jax.Array, n: int, split: int | None) -> jax.Array:
    """``ops.linear.weight_gradient``: the lanes' sums are scattered over fsdp, then added over data, in float32.

    Args:
      mesh: with the axes :data:`LANES`, over which the first axis of x and g can be split.
      x: float[B, ..., *inputs].
      g: float[B, ..., *outputs].
      n: input axes.
      split: the axis of the kernel that is split over fsdp; None: it is whole on every lane.
    """

    def of_lane(x: jax.Array, g: jax.Array) -> jax.Array:
        gradient = linear.weight_gradient(x, g, n)
        if split is None:
            return jax.lax.psum(gradient, LANES)
        return jax.lax.psum(scatter(gradient, mesh.shape["fsdp"], split), "data")

    rows = PartitionSpec(LANES)
    place = PartitionSpec() if split is None else PartitionSpec(*[None] * split, "fsdp")
    run = jax.shard_map(
        of_lane, mesh=mesh, in_specs=(rows, rows), out_specs=place, axis_names=set(LANES), check_vma=False
    )
    return run(x, g)
