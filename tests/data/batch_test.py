"""Trajectories to arrays: hand cases and refusals."""

import numpy as np
import pytest

from arft_jax.data.batch import VisionBucket, assemble, fill_chunk, pack_chunks, pack_rows
from arft_jax.sharding import LaneShare
from arft_jax.testing.tiny_model import TINY_PACKING
from arft_jax.trajectory import ImageSpan, Status, Task, Trajectory

BUCKET = VisionBucket(n_patches=16, n_windows=2, packing=TINY_PACKING)
TASK = Task("t", "coding", "?", (), ("7",))


def trajectory(n, prompt_len, sampled, images=(), row=0):
    mask = np.zeros(n, bool)
    mask[list(sampled)] = True
    completion = np.arange(n) >= prompt_len
    return Trajectory(
        TASK, row, np.arange(1, n + 1, dtype=np.int32), np.where(mask, -0.5, 0.0).astype(np.float32),
        completion, completion & ~mask, np.tile(np.arange(n, dtype=np.int32), (3, 1)), prompt_len,
        tuple(images), (), Status.ANSWERED,
    )  # fmt: skip


def patches(value, h, w):
    return np.full((h * w, 1176), value, np.float32), (1, h, w)


def test_first_fit_fills_gaps_in_earlier_chunks():
    # 16 patches a chunk: 8 + 4 leave 4; 8 opens a chunk; the last 4 goes back to the first
    grids = [(1, 2, 4), (1, 2, 2), (1, 2, 4), (1, 2, 2)]
    assert pack_chunks(grids, BUCKET._replace(n_windows=4)) == [[0, 1, 3], [2]]
    assert pack_chunks([(1, 2, 2)] * 4, BUCKET) == [[0, 1], [2, 3]]  # 16 patches would fit, 2 windows do not
    assert pack_chunks([], BUCKET) == []


def test_windows_are_counted_by_the_windows_side():
    # 112 px are 8 patches: 8 x 8 is one window, 10 x 8 two, 10 x 10 four
    assert [BUCKET.windows_of((1, *grid)) for grid in ((8, 8), (10, 8), (10, 10), (2, 18))] == [1, 2, 4, 3]
    assert BUCKET.n_features == 4


def test_an_image_larger_than_a_bucket_is_refused():
    with pytest.raises(
        ValueError, match=r"got 24 patches in 1 windows, buckets are 16 and 2 \(config.rollout.n_patches"
    ):
        pack_chunks([(1, 4, 6)], BUCKET)
    with pytest.raises(ValueError, match=r"got 36 patches in 3 windows.*config.rollout.n_windows\)"):
        pack_chunks([(1, 2, 18)], BUCKET._replace(n_patches=64))


def test_a_chunk_is_its_images_one_behind_the_other_and_zeros():
    filled, layout = fill_chunk([patches(1, 2, 2), patches(2, 2, 4)], BUCKET)
    np.testing.assert_array_equal(filled[:, 0], [1] * 4 + [2] * 8 + [0] * 4)
    np.testing.assert_array_equal(layout.segment_ids, [0] * 4 + [1] * 8 + [-1] * 4)
    empty, layout = fill_chunk([], BUCKET)
    assert empty.shape == (16, 1176) and (layout.segment_ids == -1).all()


def test_rows_are_padded_and_images_found_by_hash():
    a, b = patches(1, 2, 4), patches(2, 4, 4)  # 2 and 4 image tokens
    rows = [
        trajectory(6, 4, [4, 5], [ImageSpan("a", 1, 2, a[1])]),
        trajectory(8, 6, [6], [ImageSpan("b", 0, 4, b[1]), ImageSpan("a", 4, 2, a[1])]),
    ]
    batch = assemble(rows, np.array([1.0, -1.0]), lambda t: {"a": a, "b": b}, length=10, n_chunks=3, bucket=BUCKET)
    np.testing.assert_array_equal(batch.tokens[0], [1, 2, 3, 4, 5, 6, 0, 0, 0, 0])
    np.testing.assert_array_equal(batch.segment_ids[0], [0] * 6 + [-1] * 4)
    np.testing.assert_array_equal(batch.loss_mask, [[i in (4, 5) for i in range(10)], [i == 6 for i in range(10)]])
    np.testing.assert_array_equal(batch.sampler_logps[1], [0, 0, 0, 0, 0, 0, -0.5, 0, 0, 0])
    # a: chunk 0, tokens 0 and 1; b does not fit behind it: chunk 1, whose tokens begin at 4
    np.testing.assert_array_equal(batch.feature_index[0], [-1, 0, 1] + [-1] * 7)
    np.testing.assert_array_equal(batch.feature_index[1], [4, 5, 6, 7, 0, 1] + [-1] * 4)
    np.testing.assert_array_equal(batch.patches[:, 0, 0, 0], [1, 2, 0])
    assert batch.layout.segment_ids.shape == (3, 1, 16) and (batch.layout.segment_ids[2] == -1).all()
    assert batch.positions.shape == (2, 3, 10) and batch.advantages.dtype == np.float32
    np.testing.assert_array_equal(batch.positions[1, :, :8], rows[1].positions)


def test_chunks_are_dealt_to_the_lanes_of_a_mesh_in_turn():
    images = {name: patches(i, 4, 4) for i, name in enumerate("abc", 1)}  # one a chunk
    rows = [trajectory(8, 6, [6], [ImageSpan(name, 0, 4, images[name][1])]) for name in "abc"]
    made = dict(length=10, n_chunks=4, bucket=BUCKET)
    batch = assemble(rows, np.zeros(3), lambda t: images, lanes=LaneShare(0, 2, 2), **made)
    np.testing.assert_array_equal(batch.patches[:, :, 0, 0], [[1, 2], [3, 0]])
    assert batch.layout.window_index.shape[:2] == (2, 2)
    one = assemble(rows, np.zeros(3), lambda t: images, **made)
    np.testing.assert_array_equal(batch.feature_index, one.feature_index)
    with pytest.raises(ValueError, match=r"got 4, data\*fsdp=3 \(config.train.image_chunks\)"):
        assemble(rows, np.zeros(3), lambda t: images, lanes=LaneShare(0, 3, 3), **made)


def test_rows_are_packed_first_fit_in_order():
    assert pack_rows([5, 4, 3, 2], 8, 2) == [[0, 2], [1, 3]]
    assert pack_rows([5, 9, 4, 4], 8, 1) == [[0]]  # what does not fit is left out
    assert pack_rows([], 8, 2) == [[], []]


def test_trajectories_may_share_a_row_as_segments():
    a, b = patches(1, 2, 4), patches(2, 4, 4)
    made = [
        trajectory(4, 2, [3], [ImageSpan("a", 0, 2, a[1])]),
        trajectory(9, 2, [8]),
        trajectory(5, 3, [3, 4], [ImageSpan("b", 1, 2, b[1])]),
    ]
    packed = assemble(
        made, np.zeros(2), lambda t: {"a": a, "b": b}, length=10, n_chunks=2, bucket=BUCKET, rows=[[0, 2], [], [1]]
    )
    np.testing.assert_array_equal(packed.segment_ids[0], [0] * 4 + [1] * 5 + [-1])
    assert (packed.segment_ids[1] == -1).all() and (packed.segment_ids[2] == [0] * 9 + [-1]).all()
    np.testing.assert_array_equal(packed.tokens[0], [1, 2, 3, 4, 1, 2, 3, 4, 5, 0])
    np.testing.assert_array_equal(packed.positions[0, 0], [0, 1, 2, 3, 0, 1, 2, 3, 4, 0])
    np.testing.assert_array_equal(np.flatnonzero(packed.loss_mask[0]), [3, 7, 8])
    np.testing.assert_array_equal(packed.feature_index[0], [0, 1, -1, -1, -1, 4, 5, -1, -1, -1])
    with pytest.raises(ValueError, match=r"got 13 tokens, max_tokens=10 \(config.rollout.max_tokens\)"):
        assemble(made, np.zeros(1), lambda t: {}, length=10, n_chunks=1, bucket=BUCKET, rows=[[1, 0]])


def test_too_many_images_and_too_long_rows_are_refused():
    def fives(t):
        return {f"{t.row}{i}": patches(i, 4, 4) for i in range(2)}

    rows = [trajectory(4, 2, [3], row=i) for i in range(2)]
    with pytest.raises(
        ValueError,
        match=r"got 4 distinct images in 4 chunks, image_chunks=3 \(config.train.image_chunks, config.rollout.max_im",
    ):
        assemble(rows, np.zeros(2), fives, length=8, n_chunks=3, bucket=BUCKET)
    with pytest.raises(ValueError, match=r"got 4 tokens, max_tokens=3 \(config.rollout.max_tokens\)"):
        assemble(rows, np.zeros(2), lambda t: {}, length=3, n_chunks=1, bucket=BUCKET)
