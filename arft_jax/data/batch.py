"""Samples -> the arrays of one micro-batch: the door ``assemble``.

Token ids, masks, log-probs and positions are the buffers that the sampler wrote; nothing is decoded and
encoded again. Equal images (by content hash) are packed once, however many samples show them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from arft_jax.data.packing import Block, Fits, MicroBatch, Row
from arft_jax.data.samples import Sample
from arft_jax.models.family import Grid, ImagePacking
from arft_jax.sharding import LaneShare

_ONE_LANE = LaneShare()
PatchesOf = Callable[[str], np.ndarray]


class Batch(NamedTuple):
    """B rows of T tokens, right-padded; C encode chunks of N patches, in waves of as many as the mesh has lanes.

    A row holds segments: samples one behind another, or a prompt and, behind it, what each sample of a group has of its
    own.

    Args:
      tokens: int32[B, T].
      feature_index: int32[B, T], into the C * N / merge² image tokens; -1 elsewhere.
      segment_ids: int32[B, T], from 0 in each row, -1 on padding. A token sees its own segment up to itself.
      prefix_ids: int32[B, T], the segment of the prompt that a token sees too; -1: none.
      source: int32[B, T], the column whose state a token is drawn from; -1: none.
      positions: int32[B, 3, T], M-RoPE.
      loss_mask: bool[B, T].
      sampler_logps, old_logps, ref_logps: float32[B, T], nats; 0 where they are not known.
      advantages: float32[B, T].
      patches: float32[waves, lanes, N, patch_dim]; chunk c is wave c // lanes, lane c % lanes.
      layout: with the same leading axes, as the model family defines it.
    """

    tokens: np.ndarray
    feature_index: np.ndarray
    segment_ids: np.ndarray
    prefix_ids: np.ndarray
    source: np.ndarray
    positions: np.ndarray
    loss_mask: np.ndarray
    sampler_logps: np.ndarray
    old_logps: np.ndarray
    ref_logps: np.ndarray
    advantages: np.ndarray
    patches: np.ndarray
    layout: Any

    @classmethod
    def empty(cls, n_rows: int, width: int, patches: np.ndarray, layout: Any) -> "Batch":
        """Rows of padding beside these images."""
        by_token = (n_rows, width)
        return cls(
            tokens=np.zeros(by_token, np.int32),
            feature_index=np.full(by_token, -1, np.int32),
            segment_ids=np.full(by_token, -1, np.int32),
            prefix_ids=np.full(by_token, -1, np.int32),
            source=np.full(by_token, -1, np.int32),
            positions=np.zeros((n_rows, 3, width), np.int32),
            loss_mask=np.zeros(by_token, bool),
            sampler_logps=np.zeros(by_token, np.float32),
            old_logps=np.zeros(by_token, np.float32),
            ref_logps=np.zeros(by_token, np.float32),
            advantages=np.zeros(by_token, np.float32),
            patches=patches,
            layout=layout,
        )


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


def grids_of(samples: Sequence[Sample], rows: Sequence[Row]) -> dict[str, Grid]:
    """{sha256: patch grid} of every image that rows show, in order."""
    return {
        span.sha256: span.grid for row in rows for block in row for i in block.members for span in samples[i].images
    }


def images_fit(samples: Sequence[Sample], n_chunks: int, bucket: VisionBucket) -> Fits:
    """fits(rows) of :mod:`arft_jax.data.packing`: whether their images fill no more than ``n_chunks`` chunks."""

    def fits(rows: Sequence[Row]) -> bool:
        return len(pack_chunks(list(grids_of(samples, rows).values()), bucket)) <= n_chunks

    return fits


def _pack_images(
    grids: Mapping[str, Grid], patches_of: PatchesOf, n_chunks: int, bucket: VisionBucket, lanes: LaneShare
):
    """Stacked chunks of these lanes, wave by wave, and {sha256: first image token} of all."""
    if n_chunks % lanes.total:
        raise ValueError(
            f"image_chunks must be a multiple of data*fsdp: got {n_chunks}, data*fsdp={lanes.total} "
            "(config.train.image_chunks)"
        )
    names = list(grids)
    chunks = pack_chunks([grids[name] for name in names], bucket)
    if len(chunks) > n_chunks:
        raise ValueError(
            f"the images of a batch must fit image_chunks chunks: got {len(names)} distinct images in {len(chunks)} "
            f"chunks, image_chunks={n_chunks} (config.train.image_chunks, config.rollout.max_images)"
        )
    first = {}
    for c, members in enumerate(chunks):
        at = c * bucket.n_features
        for i in members:
            first[names[i]] = at
            at += int(np.prod(grids[names[i]])) // bucket.packing.merge**2
    filled = []
    for c in range(n_chunks):
        if lanes.first <= c % lanes.total < lanes.first + lanes.count:
            members = chunks[c] if c < len(chunks) else []
            filled.append(fill_chunk([(patches_of(names[i]), grids[names[i]]) for i in members], bucket))
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *filled)
    return *jax.tree.map(lambda x: x.reshape(-1, lanes.count, *x.shape[1:]), stacked), first


def assemble(
    micro: MicroBatch,
    samples: Sequence[Sample],
    patches_of: PatchesOf,
    *,
    n_chunks: int,
    bucket: VisionBucket,
    lanes: LaneShare = _ONE_LANE,
) -> Batch:
    """Builds the arrays of a micro-batch, or of the lanes of one process.

    Args:
      micro: which samples stand where.
      samples: those that it names.
      patches_of: sha256 of an image -> float32[n, patch_dim]; called for the images that these lanes encode.
      n_chunks: C, of all lanes.
      bucket: sizes of a chunk.
      lanes: those whose rows and chunks are built.

    Raises:
      ValueError: a row longer than its width, more images than the chunks hold, or chunks that the lanes do not
        divide.
    """
    patches, layout, first = _pack_images(grids_of(samples, micro.rows), patches_of, n_chunks, bucket, lanes)
    a_lane = len(micro.rows) // lanes.total
    rows = micro.rows[lanes.first * a_lane : (lanes.first + lanes.count) * a_lane]
    out = Batch.empty(len(rows), micro.width, patches, layout)
    for r, blocks in enumerate(rows):
        at = segment = 0
        for block in blocks:
            at, segment = _place_block(out, r, at, segment, block, samples, first)
    return out


def _place_block(
    out: Batch, row: int, at: int, segment: int, block: Block, samples: Sequence[Sample], first: Mapping[str, int]
) -> tuple[int, int]:
    """Writes a block into a row from a column and a segment on; the column and segment behind it."""
    shared, prefix, prefix_end = block.prefix_len, -1, -1
    if shared:
        _place(out, row, at, segment, samples[block.members[0]], slice(0, shared), first)
        at, prefix, segment = at + shared, segment, segment + 1
        prefix_end = at - 1
    for i in block.members:
        n = len(samples[i].tokens) - shared
        _place(out, row, at, segment, samples[i], slice(shared, None), first)
        out.prefix_ids[row, at : at + n] = prefix
        out.source[row, at : at + 1] = prefix_end  # what follows a prompt is drawn from the prompt's end
        at, segment = at + n, segment + 1
    return at, segment


def _place(out: Batch, row: int, at: int, segment: int, sample: Sample, part: slice, first: Mapping[str, int]) -> None:
    """Writes a part of one sample's tokens into a row from column ``at`` on."""
    tokens = sample.tokens[part]
    end = at + len(tokens)
    if end > out.tokens.shape[1]:
        raise ValueError(
            f"a trajectory must fit its row: got {end} tokens, a row of {out.tokens.shape[1]} "
            "(config.rollout.max_tokens)"
        )
    out.tokens[row, at:end] = tokens
    out.segment_ids[row, at:end] = segment
    out.source[row, at + 1 : end] = np.arange(at, end - 1)
    out.positions[row, :, at:end] = sample.positions[:, part]
    out.loss_mask[row, at:end] = sample.loss_mask[part]
    for name in ("sampler_logps", "old_logps", "ref_logps", "advantages"):
        values = getattr(sample, name)
        if values is not None:
            getattr(out, name)[row, at:end] = values[part]
    start, stop, _ = part.indices(len(sample.tokens))
    for span in sample.images:
        if start <= span.start < stop:
            here = at + span.start - start
            out.feature_index[row, here : here + span.n] = first[span.sha256] + np.arange(span.n)


def unpacked(micro: MicroBatch, samples: Sequence[Sample], by_token: np.ndarray) -> dict[int, np.ndarray]:
    """{index of a sample: float[T]} from values of all rows, float[B, T]; 0 on a prefix that stands once."""
    found = {}
    for r, blocks in enumerate(micro.rows):
        at = 0
        for block in blocks:
            at += block.prefix_len
            for i in block.members:
                n = len(samples[i].tokens) - block.prefix_len
                found[i] = np.concatenate([np.zeros(block.prefix_len, by_token.dtype), by_token[r, at : at + n]])
                at += n
    return found
