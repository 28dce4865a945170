"""Positions of a text decoder, and the packing of a model that takes no images."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from arft_jax.models.family import Grid, ImagePacking


def sequential_positions(tokens: np.ndarray, grids: Sequence[Grid], image_token_id: int) -> tuple[np.ndarray, int]:
    """Ordinary positions: token t is at t, an image's tokens one after the other like all others.

    Args:
      tokens: int32[T].
      grids, image_token_id: not read.

    Returns:
      int32[3, T], three equal rows, and T.
    """
    n = len(tokens)
    return np.tile(np.arange(n, dtype=np.int32), (3, 1)), n


class NoImages(NamedTuple):
    """The layout of a chunk that never holds an image.

    Args:
      segment_ids: int32[N], -1 throughout.
    """

    segment_ids: np.ndarray


def _no_layout(grids: Sequence[Grid], n_patches: int, n_windows: int) -> NoImages:
    if grids:
        raise ValueError(f"images must have a policy with a vision tower: got {len(grids)} (config.model.vision)")
    return NoImages(np.full((n_patches,), -1, np.int32))


# Patches are one number wide: the empty chunks of a text policy's batches then cost next to nothing.
TEXT_ONLY = ImagePacking(
    patch=14, merge=2, patch_dim=1, windows_of=lambda grid: 0, layout=_no_layout, positions=sequential_positions
)
