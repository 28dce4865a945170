"""Layout of several images in one chunk of patches: segments, rotary rows and columns, window places.

Qwen2.5-VL (arXiv 2502.13923, section 2.1.1): windows of 112 px, cut from each image's own corner; windows
at the right and bottom edges hold fewer patches and are never filled up with other patches.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from arft_jax.models.family import Grid, ImagePacking


class VisionLayout(NamedTuple):
    """Where the patches of one chunk belong; the tower takes the same with a leading axis of chunks.

    Patches stand in the image processor's order: merge blocks row by row, a block's patches adjacent.

    Args:
      segment_ids: int32[N], the image of each patch, -1 for padding.
      hw: int32[N, 2], row and column of each patch in its image.
      window_index: int32[W, window_len], the patch at each place of each window, -1 for no patch.
      window_slot: int32[N], the flat place (window * window_len + place) of each patch, 0 for padding.
    """

    segment_ids: np.ndarray
    hw: np.ndarray
    window_index: np.ndarray
    window_slot: np.ndarray


def count_windows(grids: Sequence[Grid], window_px: int, patch: int) -> int:
    """Windows that the images need: ceil(rows / side) * ceil(columns / side) each.

    >>> count_windows([(1, 10, 14), (1, 8, 8)], 112, 14)
    5
    """
    side = window_px // patch
    return sum(-(-height // side) * -(-width // side) for _, height, width in grids)


def _patch_rows_columns(height: int, width: int, merge: int) -> np.ndarray:
    """int32[height * width, 2] in the processor's order: blocks row by row, then rows within a block."""
    block = np.indices((height, width), dtype=np.int32).reshape(2, height // merge, merge, width // merge, merge)
    return block.transpose(1, 3, 2, 4, 0).reshape(-1, 2)


def pack_layout(
    grids: Sequence[Grid], n_patches: int, n_windows: int, window_px: int, patch: int, merge: int
) -> VisionLayout:
    """Packs images one after the other into a chunk of ``n_patches`` places and ``n_windows`` windows.

    Args:
      grids: (1, rows, columns) in patches, in the order of the images.
      n_patches: N, the bucket, a multiple of merge².
      n_windows: W, at least :func:`count_windows`.
      window_px, patch: sides of a window and of a patch in pixels.
      merge: side of a merge block in patches.

    Returns:
      The layout; padding comes last.

    Raises:
      ValueError: the images do not fit, or a grid is no image's.
    """
    needed, windows = sum(int(np.prod(grid)) for grid in grids), count_windows(grids, window_px, patch)
    if needed > n_patches or n_patches % merge**2:
        raise ValueError(f"n_patches must be a multiple of {merge**2} and at least {needed}: got {n_patches}")
    if windows > n_windows:
        raise ValueError(f"n_windows must be at least {windows}: got {n_windows}")
    side = window_px // patch
    segment_ids = np.full((n_patches,), -1, np.int32)
    hw = np.zeros((n_patches, 2), np.int32)
    window_index = np.full((n_windows, side**2), -1, np.int32)
    window_slot = np.zeros((n_patches,), np.int32)
    start, first_window = 0, 0
    for segment, (frames, height, width) in enumerate(grids):
        if frames != 1 or height % merge or width % merge or min(height, width) < 1:
            raise ValueError(
                f"an image's grid must be (1, h, w) with h, w multiples of {merge}: got {(frames, height, width)}"
            )
        here = slice(start, start + height * width)
        rows, columns = _patch_rows_columns(height, width, merge).T
        window = first_window + rows // side * -(-width // side) + columns // side
        place = rows % side * side + columns % side
        segment_ids[here], hw[here] = segment, np.stack([rows, columns], axis=1)
        window_index[window, place] = np.arange(here.start, here.stop, dtype=np.int32)
        window_slot[here] = window * side**2 + place
        start, first_window = here.stop, first_window + -(-height // side) * -(-width // side)
    return VisionLayout(segment_ids, hw, window_index, window_slot)


def windowed_packing(
    window_px: int, patch: int, merge: int, patch_dim: int, positions: Callable[..., tuple[np.ndarray, int]]
) -> ImagePacking:
    """How a tower with these windows takes images.

    Args:
      window_px, patch, merge: as for :func:`pack_layout`.
      patch_dim: numbers of a flattened patch.
      positions: of tokens, grids and an image token id, as ``ImagePacking.positions``.
    """

    def layout(grids: Sequence[Grid], n_patches: int, n_windows: int) -> VisionLayout:
        return pack_layout(grids, n_patches, n_windows, window_px, patch, merge)

    def windows_of(grid: Grid) -> int:
        return count_windows([grid], window_px, patch)

    return ImagePacking(patch, merge, patch_dim, windows_of, layout, positions)
