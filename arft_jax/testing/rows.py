"""Trajectories as a batch of rows of their own, for tests that score them."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from arft_jax.data.batch import Batch, VisionBucket, assemble
from arft_jax.data.packing import Block, MicroBatch
from arft_jax.data.patches import PatchStore
from arft_jax.data.samples import samples_of
from arft_jax.models.family import Grid
from arft_jax.train.batches import images_of
from arft_jax.trajectory import Trajectory


def one_each(
    trajectories: Sequence[Trajectory],
    patches_of: Callable[[Trajectory], Mapping[str, tuple[np.ndarray, Grid]]],
    *,
    length: int,
    n_chunks: int,
    bucket: VisionBucket,
) -> Batch:
    """A row of ``length`` tokens for each trajectory, without advantages.

    Args:
      trajectories: what the rows hold.
      patches_of: the images of a trajectory as {sha256: (float32[n, patch_dim], grid)}.
      length: of a row.
      n_chunks, bucket: as of ``assemble``.
    """
    patches = {name: item[0] for t in trajectories for name, item in patches_of(t).items()}
    rows = tuple((Block((i,), 0),) for i in range(len(trajectories)))
    return assemble(
        MicroBatch(rows, length), samples_of(trajectories), patches.__getitem__, n_chunks=n_chunks, bucket=bucket
    )


def shown_by(store: PatchStore) -> Callable[[Trajectory], Mapping[str, tuple[np.ndarray, Grid]]]:
    """``patches_of`` of :func:`one_each` from a store."""
    return lambda t: {name: store.get(image) for name, image in images_of(t).items()}
