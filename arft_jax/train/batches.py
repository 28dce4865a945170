"""From trajectories to the batches of an update, on the devices: whose rows they are, and how many one update takes."""

from collections.abc import Sequence

import jax
import numpy as np

from arft_jax.build.parts import Parts
from arft_jax.build.placement import batch_places
from arft_jax.data.batch import Batch, assemble, pack_rows
from arft_jax.data.patches import PatchStore
from arft_jax.io import hosts
from arft_jax.train.random_streams import Stream, stream_generator
from arft_jax.trajectory import Trajectory

_PACKED_FROM = 8  # chains that a row of the warm start is packed from


def share(n_items: int) -> slice:
    """This process's part of what all processes have in one order."""
    n = n_items // jax.process_count()
    return slice(n * jax.process_index(), n * (jax.process_index() + 1))


def images_of(patches: PatchStore, trajectory: Trajectory) -> dict:
    """{sha256: (patches, grid)} of every image that a trajectory shows."""
    images = list(trajectory.task.images)
    for turn in trajectory.turns:
        images += turn.observation.images if turn.observation else ()
    by_hash = {image.sha256: image for image in images}
    return {span.sha256: patches.get(by_hash[span.sha256]) for span in trajectory.images}


def make_batch(
    parts: Parts,
    trajectories: Sequence[Trajectory],
    advantages: np.ndarray,
    rows: Sequence[Sequence[int]] | None = None,
    valid: np.ndarray | None = None,
) -> Batch:
    """This process's rows of a batch, placed beside those of the other processes.

    Args:
      parts: made from the plan of the run.
      trajectories: what the rows hold.
      advantages: float32[B], B of this process.
      rows: for each row the indices of its trajectories; None: one row each.
      valid: bool of each trajectory, whether it is learnt from; None: all are.

    Raises:
      ValueError: rows or images that the batch does not hold.
    """
    config, placement = parts.plan.config, parts.plan.placement
    batch = assemble(
        trajectories,
        advantages,
        lambda trajectory: images_of(parts.patches, trajectory),
        length=config.rollout.max_tokens,
        n_chunks=config.train.image_chunks // jax.process_count(),
        bucket=parts.plan.bucket,
        rows=rows,
        lanes=placement.lanes_of(jax.process_index()),
        valid=valid,
    )
    return hosts.put(batch, batch_places(batch, placement))


def update_batches(
    parts: Parts, trajectories: Sequence[Trajectory], advantages: np.ndarray, valid: np.ndarray
) -> list[Batch]:
    """The batches of one GRPO step, ``train.rows_per_update`` rows of all processes each.

    Args:
      parts: made from the plan of the run.
      trajectories: this process's rows.
      advantages: float32[B].
      valid: bool[B]; nothing is learnt from the other rows.
    """
    n = parts.plan.config.train.rows_per_update // jax.process_count()
    cuts = [slice(k, k + n) for k in range(0, len(trajectories), n)]
    return [make_batch(parts, trajectories[cut], advantages[cut], valid=valid[cut]) for cut in cuts]


def imitation_batch(parts: Parts, chains: Sequence[Trajectory], step: int) -> Batch:
    """Recorded chains of one warm-start step, packed into ``warm_start.rows`` rows; the order follows from the step."""
    config, n_rows = parts.plan.config, parts.plan.config.warm_start.rows
    order = stream_generator(config.seed, Stream.WARM_START, step).permutation(len(chains))
    drawn = [chains[i] for i in order[: _PACKED_FROM * n_rows]]
    rows = pack_rows([len(chain.tokens) for chain in drawn], config.rollout.max_tokens, n_rows)[share(n_rows)]
    return make_batch(parts, drawn, np.zeros(len(rows)), rows)
