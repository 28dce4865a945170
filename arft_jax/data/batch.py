"""Trajectories -> the arrays of one update: the door ``assemble``.

Token ids, masks, log-probs and positions are the buffers that the sampler wrote; nothing is decoded and
encoded again. Equal images (by content hash) are packed once, however many rows show them.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from arft_jax.models.family import ImagePacking
from arft_jax.sharding import LaneShare
from arft_jax.trajectory import Trajectory

_ONE_LANE = LaneShare()


class Batch(NamedTuple):
    """B rows of T tokens, right-padded; C encode chunks of N patches, in waves of as many as the mesh has lanes.

    tokens, feature_index, segment_ids int32[B, T]; positions int32[B, 3, T]; loss_mask bool[B, T];
    sampler_logps float32[B, T]; advantages float32[B]; patches float32[waves, lanes, N, patch_dim]; layout with the
    same leading axes, as the model family defines it; chunk c is wave c // lanes, lane c % lanes. ``feature_index``
    points into the C * N / merge²
    image tokens, -1 elsewhere; ``segment_ids`` counts the trajectories of a row from 0 and is -1 on padding.
    """

    tokens: np.ndarray
    feature_index: np.ndarray
    segment_ids: np.ndarray
    positions: np.ndarray
    loss_mask: np.ndarray
    sampler_logps: np.ndarray
    advantages: np.ndarray
    patches: np.ndarray
    layout: Any


class VisionBucket(NamedTuple):
    """Sizes of one encode chunk, and how the model's family packs images into it.

    Args:
      n_patches, n_windows: of a chunk.
      packing: the family's, for the sizes of the model.
    """

    n_patches: int
    n_windows: int
    packing: ImagePacking

    @property
    def patch(self) -> int:
        """Side of a patch, px."""
        return self.packing.patch

    @property
    def n_features(self) -> int:
        """Image tokens of a chunk."""
        return self.n_patches // self.packing.merge**2

    def windows_of(self, grid: tuple[int, int, int]) -> int:
        """Vision windows that an image of patch grid (t, h, w) takes."""
        return self.packing.windows_of(grid)

    def layout(self, grids: Sequence[tuple[int, int, int]] = ()) -> Any:
        """Where the patches of a chunk with these images belong."""
        return self.packing.layout(grids, self.n_patches, self.n_windows)


def pack_chunks(grids: Sequence[tuple[int, int, int]], bucket: VisionBucket) -> list[list[int]]:
    """First-fit packing of images into chunks.

    Example: bucket of 576 patches, grids of 36 patches: 16 images a chunk.

    Returns:
      For each chunk the indices of its images, in order.

    Raises:
      ValueError: an image alone exceeds the bucket.
    """
    chunks: list[list[int]] = []
    free: list[tuple[int, int]] = []
    for i, grid in enumerate(grids):
        need, windows = int(np.prod(grid)), bucket.windows_of(grid)
        if need > bucket.n_patches or windows > bucket.n_windows:
            raise ValueError(
                f"an image must fit one encode call: got {need} patches in {windows} windows, buckets are "
                f"{bucket.n_patches} and {bucket.n_windows} (config.rollout.n_patches, config.rollout.n_windows)"
            )
        for c, (patches, wins) in enumerate(free):
            if need <= patches and windows <= wins:
                chunks[c].append(i)
                free[c] = (patches - need, wins - windows)
                break
        else:
            chunks.append([i])
            free.append((bucket.n_patches - need, bucket.n_windows - windows))
    return chunks


def fill_chunk(images: Sequence[tuple[np.ndarray, tuple[int, int, int]]], bucket: VisionBucket):
    """One chunk: float32[n_patches, patch_dim] and its layout, from (patches, grid) pairs that fit."""
    patches = np.zeros((bucket.n_patches, bucket.packing.patch_dim), np.float32)
    at = 0
    for pixels, _ in images:
        patches[at : at + len(pixels)] = pixels
        at += len(pixels)
    return patches, bucket.layout([grid for _, grid in images])


def _pack_images(images: dict, n_chunks: int, bucket: VisionBucket):
    """{sha256: (patches, grid)} -> stacked chunks and {sha256: first image token}."""
    names = list(images)
    chunks = pack_chunks([images[name][1] for name in names], bucket)
    if len(chunks) > n_chunks:
        raise ValueError(
            f"the images of a batch must fit image_chunks chunks: got {len(names)} distinct images in {len(chunks)} "
            f"chunks, image_chunks={n_chunks} (config.train.image_chunks, config.rollout.max_images)"
        )
    first, filled = {}, []
    for c in range(n_chunks):
        members = [names[i] for i in chunks[c]] if c < len(chunks) else []
        at = c * bucket.n_features
        for name in members:
            first[name] = at
            at += int(np.prod(images[name][1])) // bucket.packing.merge**2
        filled.append(fill_chunk([images[name] for name in members], bucket))
    layout = jax.tree.map(lambda *leaves: np.stack(leaves), *(layout for _, layout in filled))
    return np.stack([patches for patches, _ in filled]), layout, first


def pack_rows(lengths: Sequence[int], length: int, n_rows: int) -> list[list[int]]:
    """First-fit packing of sequences into ``n_rows`` rows of ``length`` tokens; what does not fit is left out.

    Example: lengths [5, 4, 3, 2], rows of 8 tokens, 2 rows: [[0, 2], [1, 3]].

    Returns:
      For each row the indices of its sequences; a row may be empty.
    """
    rows: list[list[int]] = [[] for _ in range(n_rows)]
    free = [length] * n_rows
    for i, need in enumerate(lengths):
        row = next((r for r in range(n_rows) if need <= free[r]), None)
        if row is not None:
            rows[row].append(i)
            free[row] -= need
    return rows


def _check_lanes(n_chunks: int, lanes: LaneShare) -> None:
    if n_chunks % lanes.count:
        raise ValueError(
            f"image_chunks must be a multiple of data*fsdp: got {n_chunks}, data*fsdp={lanes.count} "
            "(config.train.image_chunks)"
        )


def assemble(
    trajectories: Sequence[Trajectory],
    advantages: np.ndarray,
    patches_of: Callable[[Trajectory], dict],
    *,
    length: int,
    n_chunks: int,
    bucket: VisionBucket,
    rows: Sequence[Sequence[int]] | None = None,
    lanes: LaneShare = _ONE_LANE,
    valid: Sequence[bool] | None = None,
) -> Batch:
    """Builds the arrays of B rows, which are all of a batch or one process's part of it.

    Args:
      trajectories: what the rows hold.
      advantages: float32[B].
      patches_of: the images of a trajectory as {sha256: (float32[n, patch_dim], grid)}.
      length: T; every row must fit.
      n_chunks: C.
      bucket: sizes of a chunk.
      rows: for each row the indices of its trajectories, which then share it as segments 0, 1, ...; None gives
        each trajectory a row of its own.
      lanes: those that these rows and chunks fill; C is a multiple of their count.
      valid: for each trajectory, whether it is learnt from; the others count in no sum. None: all are.

    Raises:
      ValueError: a row longer than ``length``, more images than the chunks hold, or chunks that the lanes do not
        divide.
    """
    _check_lanes(n_chunks, lanes)
    rows = [[i] for i in range(len(trajectories))] if rows is None else rows
    b = len(rows)
    images: dict = {}
    for i in sorted({i for row in rows for i in row}):
        images.update(patches_of(trajectories[i]))
    patches, layout, first = _pack_images(images, n_chunks, bucket)
    # Image tokens are counted over the whole batch, wave by wave and lane by lane.
    shift = np.arange(n_chunks) // lanes.count * (lanes.total - lanes.count) + lanes.first
    first = {name: at + int(shift[at // bucket.n_features]) * bucket.n_features for name, at in first.items()}
    waves = jax.tree.map(lambda x: x.reshape(-1, lanes.count, *x.shape[1:]), (patches, layout))
    out = Batch(
        tokens=np.zeros((b, length), np.int32),
        feature_index=np.full((b, length), -1, np.int32),
        segment_ids=np.full((b, length), -1, np.int32),
        positions=np.zeros((b, 3, length), np.int32),
        loss_mask=np.zeros((b, length), bool),
        sampler_logps=np.zeros((b, length), np.float32),
        advantages=np.asarray(advantages, np.float32),
        patches=waves[0],
        layout=waves[1],
    )
    for r, members in enumerate(rows):
        at = 0
        for segment, i in enumerate(members):
            _place(out, r, at, segment, trajectories[i], first, valid is None or bool(valid[i]))
            at += len(trajectories[i].tokens)
    return out


def _place(out: Batch, row: int, at: int, segment: int, t: Trajectory, first: dict[str, int], is_valid: bool) -> None:
    """Writes one trajectory into a row from column ``at`` on."""
    end, length = at + len(t.tokens), out.tokens.shape[1]
    if end > length:
        raise ValueError(
            f"a trajectory must fit max_tokens: got {end} tokens, max_tokens={length} (config.rollout.max_tokens)"
        )
    out.tokens[row, at:end] = t.tokens
    out.segment_ids[row, at:end] = segment
    out.positions[row, :, at:end] = t.positions
    out.loss_mask[row, at:end] = t.loss_mask if is_valid else False
    out.sampler_logps[row, at:end] = t.sampler_logps
    for span in t.images:
        out.feature_index[row, at + span.start : at + span.start + span.n] = first[span.sha256] + np.arange(span.n)
