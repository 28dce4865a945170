"""Where a run's arrays lie, from its config: the mesh of training, the devices of a rollout, the shares of a batch."""

from collections.abc import Callable, Sequence

import jax
from flax import nnx

from arft_jax.data.batch import Batch
from arft_jax.sharding import Placement, make_mesh
from arft_jax.steps import reshard


def make_placement(config, devices: Sequence[jax.Device] | None = None) -> Placement:
    """The run's mesh over these devices, all that are there where None.

    Raises:
      ValueError: sizes that do not multiply to the number of devices, or image chunks or prompts that they do not
        divide.
    """
    sizes = {"data": config.mesh.data, "fsdp": config.mesh.fsdp, "tensor": config.mesh.tensor}
    placement, t = Placement(make_mesh(sizes, devices)), config.train
    if t.image_chunks % placement.n_lanes:
        raise ValueError(
            f"image_chunks must be a multiple of data*fsdp={placement.n_lanes}: got {t.image_chunks} "
            "(config.train.image_chunks, config.mesh)"
        )
    n_processes = len({device.process_index for device in placement.mesh.devices.flat})
    if t.prompts % n_processes:
        raise ValueError(
            f"every process must have as many prompts as the others: got prompts={t.prompts}, {n_processes} processes "
            "(config.train.prompts)"
        )
    return placement


def rollout_tensor(config, placement: Placement) -> int:
    """Devices that share one copy of the policy in a rollout."""
    return config.rollout.tensor or placement.mesh.shape["tensor"]


def rollout_placements(config, placement: Placement, process_index: int) -> tuple[Placement, Placement]:
    """(all devices, those of one process) as rollouts use them.

    Raises:
      ValueError: devices that do not hold whole copies of the policy, or slots that they do not divide.
    """
    global_placement = placement.for_rollout(rollout_tensor(config, placement))
    local_placement, n_slots = global_placement.of_process(process_index), config.rollout.n_slots
    if n_slots % local_placement.n_lanes:
        raise ValueError(
            f"n_slots must be a multiple of the {local_placement.n_lanes} copies of the policy that a process's "
            f"devices hold: got {n_slots} (config.rollout.n_slots, config.rollout.tensor)"
        )
    return global_placement, local_placement


def policy_mover(
    config, abstract: nnx.State, placement: Placement, global_placement: Placement, local_placement: Placement
) -> Callable[[nnx.State], nnx.State]:
    """What moves the policy from where it is trained to where it is rolled out; the identity where that is the same.

    Args:
      config: of the run.
      abstract: the policy's parameters as shapes.
      placement: of training.
      global_placement, local_placement: of :func:`rollout_placements`.
    """
    dtype = config.model.dtype
    if not reshard.is_needed(abstract, dtype, placement, global_placement):
        return lambda params: params
    move = reshard.make_reshard(abstract, dtype, placement, rollout_tensor(config, placement))
    places = local_placement.params(abstract)
    return lambda params: reshard.own_share(move(params), places)


def batch_places(batch: Batch, placement: Placement) -> Batch:
    """A sharding for each array of a batch: rows, and the lanes of image chunks, over (data, fsdp)."""
    by_row, by_lane = placement.split(0), placement.split(1)
    places = jax.tree.map(lambda _: by_row, batch)
    return places._replace(patches=by_lane, layout=jax.tree.map(lambda _: by_lane, batch.layout))
