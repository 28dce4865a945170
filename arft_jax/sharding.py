"""Placement: which mesh axis each logical axis of a parameter or a batch is split over.

A parameter names its axes (``nnx.Param`` metadata ``axes``, one name a dimension, ``layers`` first where layers are
stacked); one table sends each name to a mesh axis or to none. The mesh always has the three axes ``data`` (replicas),
``fsdp`` (parameters and batch) and ``tensor`` (heads, MLP, vocabulary); an axis that is not wanted has size 1.

Key/value heads fewer than the tensor axis are held whole by every device, as their projections are small; query heads,
MLP and vocabulary are split all the same.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from arft_jax.ops.attention import attend_causal, attend_segments
from arft_jax.ops.cudnn import attend_cudnn
from arft_jax.ops.logps import Exchange, token_logps
from arft_jax.ops.splash import attend_splash
from arft_jax.words import ATTENTION_KERNELS

MESH_AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")

# Logical axis -> mesh axis, or None for an axis that every device holds whole.
RULES: Mapping[str, str | None] = {
    "layers": None,
    "embed": "fsdp",
    "vocab": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    "mlp": "tensor",
    "patch_dim": None,
    "vision_embed": "fsdp",
    "vision_heads": "tensor",
    "vision_mlp": "tensor",
    "lora_rank": None,
}
# Axes that are held whole where the mesh axis does not divide them.
WHOLE_IF_UNEVEN = ("kv_heads",)


def make_mesh(shape: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Lays the devices out as (data, fsdp, tensor).

    ``make_mesh({"fsdp": 4, "data": -1})`` on 8 devices is data=2, fsdp=4, tensor=1. Devices of several processes are
    laid out process by process, so that each process has whole rows of a batch to itself.

    Args:
      shape: size by axis; an axis left out has size 1; at most one is -1 and takes the devices that remain.
      devices: the devices to use, all of them where None.

    Raises:
      ValueError: an unknown axis, a size that is not positive, a product other than the number of devices, or a tensor
        axis that a process's devices do not hold.
    """
    devices = list(jax.devices() if devices is None else devices)
    unknown = sorted(set(shape) - set(MESH_AXES))
    if unknown:
        raise ValueError(f"mesh axes must be among {MESH_AXES}: got {unknown[0]!r} (config.mesh)")
    sizes = {axis: int(shape.get(axis, 1)) for axis in MESH_AXES}
    free = [axis for axis, size in sizes.items() if size == -1]
    bad = [axis for axis, size in sizes.items() if size < 1 and size != -1]
    if bad or len(free) > 1:
        raise ValueError(f"mesh sizes must be positive, at most one -1: got {sizes} (config.mesh)")
    if free:
        sizes[free[0]] = max(1, len(devices) // math.prod(size for size in sizes.values() if size != -1))
    if math.prod(sizes.values()) != len(devices):
        raise ValueError(
            f"mesh sizes must multiply to the number of devices: got {sizes}, {len(devices)} devices (config.mesh)"
        )
    n_processes = len({device.process_index for device in devices})
    if n_processes > 1:
        n_local = len(devices) // n_processes
        if n_local % sizes["tensor"]:
            raise ValueError(
                f"a process's devices must hold whole tensor groups: got tensor={sizes['tensor']}, {n_local} devices a "
                "process (config.mesh.tensor)"
            )
        devices.sort(key=lambda device: (device.process_index, device.id))
        grid = np.array(devices).reshape(tuple(sizes.values()))
    else:
        # Splitting a physical axis is what lets a mesh axis of 4 lie on an 8 x 8 torus.
        grid = mesh_utils.create_device_mesh(tuple(sizes.values()), devices, allow_split_physical_axes=True)
    return Mesh(np.asarray(grid), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def partition_spec(
    name: str,
    axes: Sequence[str | None],
    shape: Sequence[int],
    mesh: Mesh | AbstractMesh,
    rules: Mapping[str, str | None] = RULES,
) -> PartitionSpec:
    """The split of one parameter.

    On a mesh with fsdp=2, tensor=2, ``("embed", "mlp")`` of shape (8, 12) is ``PartitionSpec("fsdp", "tensor")``:
    each device holds [4, 6].

    Args:
      name: the parameter's path, for messages.
      axes: one logical name a dimension; None is a dimension that is never split.
      shape: the parameter's shape.
      mesh: where it will lie.
      rules: logical axis -> mesh axis or None.

    Raises:
      ValueError: names that do not match the rank, a name without a rule, two dimensions that claim one mesh axis,
        or a dimension that the mesh axis does not divide.
    """
    if len(axes) != len(shape):
        raise ValueError(f"{name} must name every dimension: got axes {tuple(axes)} for shape {tuple(shape)}")
    taken: dict[str, tuple[int, str]] = {}
    spec: list[str | None] = []
    for dim, (logical, size) in enumerate(zip(axes, shape, strict=True)):
        if logical is not None and logical not in rules:
            raise ValueError(f"{name} has an axis without a rule: {logical!r} of {tuple(axes)} (sharding.RULES)")
        mesh_axis = None if logical is None else rules[logical]
        if mesh_axis is not None:
            if mesh_axis not in mesh.shape:
                raise ValueError(f"rule {logical!r} -> {mesh_axis!r} must name a mesh axis: got {dict(mesh.shape)}")
            if mesh_axis in taken:
                other_dim, other = taken[mesh_axis]
                raise ValueError(
                    f"{name} splits two dimensions over one mesh axis: dimension {other_dim} ({other!r} -> "
                    f"{mesh_axis!r}) and dimension {dim} ({logical!r} -> {mesh_axis!r}) (sharding.RULES)"
                )
            taken[mesh_axis] = (dim, logical)
            if size % mesh.shape[mesh_axis] and logical in WHOLE_IF_UNEVEN:
                mesh_axis = None
            elif size % mesh.shape[mesh_axis]:
                raise ValueError(
                    f"{name} dimension {dim} ({logical!r}) must be a multiple of the mesh axis: got size {size}, "
                    f"{mesh_axis}={mesh.shape[mesh_axis]} (config.mesh.{mesh_axis})"
                )
        spec.append(mesh_axis)
    while spec and spec[-1] is None:
        spec.pop()
    return PartitionSpec(*spec)


def param_shardings(state: Any, mesh: Mesh, rules: Mapping[str, str | None] = RULES) -> Any:
    """A NamedSharding for every leaf, in the structure of ``state``.

    Serves parameters and what mirrors them (an optax state built from them): wherever an ``nnx.Variable`` with
    metadata ``axes`` stands, its axes decide; scalars outside any variable are replicated.

    Args:
      state: pytree with ``nnx.Variable`` nodes (for example ``nnx.state(model)`` or its ``eval_shape``).
      mesh: the mesh of :func:`make_mesh`.
      rules: logical axis -> mesh axis or None.

    Returns:
      The same pytree with each array replaced by its sharding: fits ``jax.device_put`` and ``jax.jit``.

    Raises:
      ValueError: see :func:`partition_spec`; also an array of rank 1 or more without axes.
    """

    def place(path: tuple[Any, ...], node: Any) -> Any:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        axes = node.get_metadata().get("axes") if isinstance(node, nnx.Variable) else None
        leaves = jax.tree.leaves(node)
        if axes is None and any(np.ndim(leaf) for leaf in leaves):
            raise ValueError(f"{name} must carry metadata 'axes': got an array of shape {np.shape(leaves[0])} without")

        def one(leaf: Any) -> NamedSharding:
            # An optimiser keeps scalars in a parameter's place (masked or factored moments): they are replicated.
            spec = partition_spec(name, axes, leaf.shape, mesh, rules) if np.ndim(leaf) else PartitionSpec()
            return NamedSharding(mesh, spec)

        return jax.tree.map(one, node)

    return jax.tree_util.tree_map_with_path(place, state, is_leaf=lambda node: isinstance(node, nnx.Variable))


class LaneShare(NamedTuple):
    """One process's share of the lanes (data * fsdp) over which the rows of a batch are split.

    Example: process 1 of 2 on a mesh with data=2, fsdp=4 has ``LaneShare(first=4, count=4, total=8)``.

    Args:
      first: the first lane of the share.
      count: lanes of the share, which follow one another.
      total: lanes of the whole batch.
    """

    first: int = 0
    count: int = 1
    total: int = 1


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where everything of a run lies, given its mesh.

    Args:
      mesh: of :func:`make_mesh`.
    """

    mesh: Mesh

    @property
    def n_lanes(self) -> int:
        """data * fsdp: the shares into which rows are split."""
        return math.prod(self.mesh.shape[axis] for axis in BATCH_AXES)

    @property
    def reads_unstacked_layers(self) -> bool:
        """Whether rollouts keep cache and weights as one array a layer: everywhere but on TPUs (models/cache.py)."""
        return self.mesh.devices.flat[0].platform != "tpu"

    @property
    def whole(self) -> NamedSharding:
        """Whole on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    def split(self, dim: int) -> NamedSharding:
        """Dimension ``dim`` over (data, fsdp), all others whole."""
        return NamedSharding(self.mesh, PartitionSpec(*[None] * dim, BATCH_AXES))

    def params(self, state: Any) -> Any:
        """:func:`param_shardings` on this mesh."""
        return param_shardings(state, self.mesh)

    def lanes_of(self, process_index: int) -> LaneShare:
        """The lanes that are a process's own."""
        per_lane = self.mesh.devices.reshape(self.n_lanes, -1)[:, 0]
        own = [lane for lane, device in enumerate(per_lane) if device.process_index == process_index]
        return LaneShare(own[0], len(own), self.n_lanes)

    def refined(self, tensor: int) -> Mesh:
        """The same devices in the same order, fsdp cut in two: (data, fsdp_outer, fsdp_inner, tensor).

        ``tensor`` devices of a rollout are (tensor, fsdp_inner): a parameter that training splits over both fsdp axes
        gives up the inner one by one all-to-all, and then is gathered over the outer one alone.

        Raises:
          ValueError: a process's devices do not hold whole groups of so many, or the mesh's tensor axis does not divide
            them.
        """
        shape, n_processes = self.mesh.shape, len({device.process_index for device in self.mesh.devices.flat})
        n_local = self.mesh.size // n_processes
        if n_local % tensor or tensor % shape["tensor"] or shape["fsdp"] % (tensor // shape["tensor"]):
            raise ValueError(
                "tensor of a rollout must divide a process's devices, be a multiple of the mesh's tensor and cut its "
                f"fsdp evenly: got tensor={tensor}, {n_local} devices, mesh {dict(shape)} (config.rollout.tensor)"
            )
        inner = tensor // shape["tensor"]
        grid = self.mesh.devices.reshape(shape["data"], shape["fsdp"] // inner, inner, shape["tensor"])
        return Mesh(grid, ("data", "fsdp_outer", "fsdp_inner", "tensor"), axis_types=(AxisType.Auto,) * 4)

    def for_rollout(self, tensor: int) -> "Placement":
        """The same devices as (data, 1, tensor): every ``tensor`` of them hold a whole policy.

        Raises:
          ValueError: as :meth:`refined`.
        """
        if self.mesh.shape["fsdp"] == 1 and self.mesh.shape["tensor"] == tensor:
            return self
        grid = self.refined(tensor).devices
        grid = np.moveaxis(grid, 3, 2).reshape(-1, 1, tensor)  # tensor before fsdp_inner
        return Placement(Mesh(grid, MESH_AXES, axis_types=self.mesh.axis_types))

    def of_process(self, process_index: int) -> "Placement":
        """The part of a rollout's mesh that is a process's own: no collective on it waits for another process."""
        own = [device.process_index == process_index for device in self.mesh.devices[:, 0, 0]]
        if all(own):
            return self
        return Placement(Mesh(self.mesh.devices[np.array(own)], MESH_AXES, axis_types=self.mesh.axis_types))

    def attend_causal(self, implementation: str) -> Callable[..., jax.Array]:
        """``ops.attention.attend_causal`` on this mesh: the decoder's attention over whole sequences.

        ``splash`` is the TPU kernel, interpreted on a CPU; ``cudnn`` is the GPU kernel, on a CPU JAX's own form of it.

        Raises:
          ValueError: a kernel on other hardware.
        """
        kernel = self._kernel(implementation, causal=True)
        return kernel or functools.partial(attend_causal, implementation=implementation)

    def attend_segments(self, implementation: str) -> Callable[..., jax.Array]:
        """``ops.attention.attend_segments`` on this mesh: full attention of the vision tower; else as above."""
        kernel = self._kernel(implementation, causal=False)
        return kernel or functools.partial(attend_segments, implementation=implementation)

    def _kernel(self, implementation: str, causal: bool) -> Callable[..., jax.Array] | None:
        """The kernel of that name on this mesh, None where the name is no kernel's.

        The compiler cannot split a kernel: each device is given its own rows and heads. Key/value heads that the
        tensor axis does not divide are repeated first; rows that the lanes do not divide are given whole to each.
        """
        hardware = ATTENTION_KERNELS.get(implementation)
        if hardware is None:
            return None
        platform = self.mesh.devices.flat[0].platform
        if platform not in (hardware, "cpu"):
            raise ValueError(
                f"attention must not be {implementation} on {platform}: it is a {hardware.upper()} kernel "
                "(config.model.attention)"
            )
        if implementation == "splash":
            run = functools.partial(attend_splash, causal=causal, interpret=platform == "cpu")
        else:
            run = functools.partial(attend_cudnn, causal=causal, implementation="xla" if platform == "cpu" else "cudnn")
        if self.mesh.size == 1:
            return run

        def attend(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array) -> jax.Array:
            if k.shape[2] % self.mesh.shape["tensor"]:
                k, v = (jnp.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
            rows = None if q.shape[0] % self.n_lanes else BATCH_AXES
            heads, ids = PartitionSpec(rows, None, "tensor"), PartitionSpec(rows)
            split = jax.shard_map(
                run, mesh=self.mesh, in_specs=(heads, heads, heads, ids), out_specs=heads, check_vma=False
            )
            return split(q, k, v, segment_ids)

        return attend

    def token_logps(
        self,
        hidden: jax.Array,
        kernel: jax.Array,
        tokens: jax.Array,
        allowed: jax.Array,
        *,
        source: jax.Array | None = None,
        mask: jax.Array | None = None,
        **settings: Any,
    ) -> tuple[jax.Array, jax.Array]:
        """``ops.logps.token_logps`` on this mesh.

        Each lane compacts and scores its own rows, with no exchange between lanes but two: the kernel, split as its
        logical axes (embed, vocab) say, is gathered over fsdp before the chunks, and its gradient is summed and split
        again behind them, in float32. The compiler splits the vocabulary over tensor.
        """
        if self.mesh.size == 1 or hidden.shape[0] % self.n_lanes:
            return token_logps(hidden, kernel, tokens, allowed, source=source, mask=mask, **settings)
        exchange = Exchange(
            gather=functools.partial(jax.lax.all_gather, axis_name="fsdp", axis=0, tiled=True),
            scatter=functools.partial(jax.lax.psum_scatter, axis_name="fsdp", scatter_dimension=0, tiled=True),
        )

        def of_lane(hidden, kernel, tokens, allowed, source, mask):
            return token_logps(hidden, kernel, tokens, allowed, source=source, mask=mask, exchange=exchange, **settings)

        rows = PartitionSpec(BATCH_AXES)
        split = jax.shard_map(
            of_lane, mesh=self.mesh, in_specs=(rows, PartitionSpec("fsdp"), rows, PartitionSpec(), rows, rows),
            out_specs=rows, axis_names=set(BATCH_AXES), check_vma=False,
        )  # fmt: skip
        return split(hidden, kernel, tokens, allowed, source, mask)

    def constrain(self, x: jax.Array, *axes: str | None) -> jax.Array:
        """Tells the compiler how an activation lies: one logical name a dimension, ``rows`` for (data, fsdp).

        A dimension that its mesh axes do not divide is left whole. On one device nothing is said.
        """
        if self.mesh.size == 1:
            return x
        spec: list[Any] = []
        for size, name in zip(x.shape, axes, strict=True):
            over = () if name is None else BATCH_AXES if name == "rows" else tuple(filter(None, (RULES[name],)))
            n_shares = math.prod(self.mesh.shape[axis] for axis in over)
            spec.append(over if over and size % n_shares == 0 else None)
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, PartitionSpec(*spec)))
