"""The program that moves the policy from the layout of training to that of rollouts.

Training splits every parameter over fsdp; decoding would gather each layer's weights again for each token. So they are
moved once a policy version, in the type in which they are multiplied, and the rollout reads the copy.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from arft_jax.sharding import Placement

# A norm's weights are read in float32, and adapters are too small to gain: they keep their type.
KEPT = ("scale", "lora_a", "lora_b")


def _type_of(path: tuple[Any, ...], leaf: Any, dtype: Any) -> Any:
    return leaf.dtype if path[-1] in KEPT else jnp.dtype(dtype)


def _cast(params: nnx.State, dtype: Any) -> nnx.State:
    leaves = [
        (path, leaf.replace(leaf[...].astype(_type_of(path, leaf, dtype)))) for path, leaf in nnx.to_flat_state(params)
    ]
    return nnx.from_flat_state(leaves)


def rollout_shapes(abstract: nnx.State, dtype: Any, placement: Placement) -> nnx.State:
    """The parameters as rollouts read them: shapes with shardings.

    Args:
      abstract: shapes and types as they are trained.
      dtype: in which they are multiplied.
      placement: of the rollout.
    """
    shapes = jax.eval_shape(functools.partial(_cast, dtype=dtype), abstract)
    places = placement.params(abstract)
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes, places
    )


def is_needed(abstract: nnx.State, dtype: Any, training: Placement, rollout: Placement) -> bool:
    """Whether rollouts read another layout, or another type, than training writes."""
    types = {_type_of(path, leaf, dtype) == leaf.dtype for path, leaf in nnx.to_flat_state(abstract)}
    return training.mesh != rollout.mesh or types != {True}


def make_reshard(abstract: nnx.State, dtype: Any, training: Placement, tensor: int):
    """reshard(params) -> the parameters as rollouts read them, on all devices of the run; see :func:`own_share`.

    Asked for in one step the compiler would gather every parameter whole on every device before cutting it again.

    Args:
      abstract: shapes and types as they are trained.
      dtype: in which they are multiplied.
      training: how they are trained.
      tensor: devices that share one copy in a rollout.
    """
    mesh, rollout = training.refined(tensor), training.for_rollout(tensor)

    def place(before: NamedSharding, after: NamedSharding, fsdp: str | None) -> NamedSharding:
        """Split as ``after``; what ``before`` splits over fsdp is split over ``fsdp`` where nothing else splits it."""
        n = max(len(before.spec), len(after.spec))
        old, new = (tuple(spec) + (None,) * (n - len(spec)) for spec in (before.spec, after.spec))
        over = {"tensor": ("tensor", "fsdp_inner")}
        return NamedSharding(
            mesh,
            PartitionSpec(*(over.get(b, fsdp if a == "fsdp" else None) for a, b in zip(old, new, strict=True))),
        )

    sources, targets = training.params(abstract), rollout.params(abstract)
    half = jax.tree.map(lambda a, b: place(a, b, "fsdp_outer"), sources, targets)
    whole = jax.tree.map(lambda a, b: place(a, b, None), sources, targets)

    def move(params: nnx.State) -> nnx.State:
        return jax.lax.with_sharding_constraint(_cast(params, dtype), half)

    return jax.jit(move, out_shardings=whole)


def own_share(params: nnx.State, places: nnx.State) -> nnx.State:
    """This process's whole copy of what :func:`make_reshard` made, as arrays of its own devices; nothing is copied.

    Args:
      params: on the devices of every process.
      places: a sharding for each, on this process's devices (``Placement.of_process``).
    """

    def share(leaf: jax.Array, place: NamedSharding) -> jax.Array:
        pieces = {shard.device: shard.data for shard in leaf.addressable_shards}
        arrays = [pieces[device] for device in place.mesh.devices.flat]
        return jax.make_array_from_single_device_arrays(leaf.shape, place, arrays)

    return jax.tree.map(share, params, places)
