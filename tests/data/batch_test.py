"""Trajectories to arrays: hand cases and refusals."""

import dataclasses

import numpy as np
import pytest

from arft_jax.data.batch import VisionBucket, assemble, fill_chunk, images_fit, pack_chunks, unpacked
from arft_jax.data.packing import Block, MicroBatch
from arft_jax.data.samples import samples_of
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


def micro(*rows, width=10):
    """A micro-batch of rows, each a list of samples."""
    return MicroBatch(tuple(tuple(Block((i,), 0) for i in row) for row in rows), width)


def test_rows_are_padded_and_images_found_by_hash():
    a, b = patches(1, 2, 4), patches(2, 4, 4)  # 2 and 4 image tokens
    rows = [
        trajectory(6, 4, [4, 5], [ImageSpan("a", 1, 2, a[1])]),
        trajectory(8, 6, [6], [ImageSpan("b", 0, 4, b[1]), ImageSpan("a", 4, 2, a[1])]),
    ]
    samples = [
        dataclasses.replace(sample, advantages=np.full(len(sample.tokens), value, np.float32), old_logps=old)
        for sample, value, old in zip(samples_of(rows), (1, -1), (None, np.arange(8.0)), strict=True)
    ]
    batch = assemble(micro([0], [1]), samples, lambda name: {"a": a, "b": b}[name][0], n_chunks=3, bucket=BUCKET)
    np.testing.assert_array_equal(batch.tokens[0], [1, 2, 3, 4, 5, 6, 0, 0, 0, 0])
    np.testing.assert_array_equal(batch.segment_ids[0], [0] * 6 + [-1] * 4)
    np.testing.assert_array_equal(batch.source[0], [-1, 0, 1, 2, 3, 4] + [-1] * 4)
    np.testing.assert_array_equal(batch.loss_mask, [[i in (4, 5) for i in range(10)], [i == 6 for i in range(10)]])
    np.testing.assert_array_equal(batch.sampler_logps[1], [0, 0, 0, 0, 0, 0, -0.5, 0, 0, 0])
    np.testing.assert_array_equal(batch.advantages, [[1] * 6 + [0] * 4, [-1] * 8 + [0] * 2])
    np.testing.assert_array_equal(batch.old_logps, [[0] * 10, [*range(8), 0, 0]])
    # a: chunk 0, tokens 0 and 1; b does not fit behind it: chunk 1, whose tokens begin at 4
    np.testing.assert_array_equal(batch.feature_index[0], [-1, 0, 1] + [-1] * 7)
    np.testing.assert_array_equal(batch.feature_index[1], [4, 5, 6, 7, 0, 1] + [-1] * 4)
    np.testing.assert_array_equal(batch.patches[:, 0, 0, 0], [1, 2, 0])
    assert batch.layout.segment_ids.shape == (3, 1, 16) and (batch.layout.segment_ids[2] == -1).all()
    assert batch.positions.shape == (2, 3, 10) and (batch.prefix_ids == -1).all()
    np.testing.assert_array_equal(batch.positions[1, :, :8], rows[1].positions)


def test_each_process_builds_its_lanes_of_rows_and_chunks_and_no_other_image():
    images = {name: patches(i, 4, 4) for i, name in enumerate("abc", 1)}  # one a chunk
    samples = samples_of([trajectory(8, 6, [6], [ImageSpan(name, 0, 4, images[name][1])]) for name in "abc"])
    plan, options = micro([0], [1], [2], []), dict(n_chunks=4, bucket=BUCKET)
    whole = assemble(plan, samples, lambda name: images[name][0], lanes=LaneShare(0, 2, 2), **options)
    np.testing.assert_array_equal(whole.patches[:, :, 0, 0], [[1, 2], [3, 0]])  # dealt to the lanes in turn
    assert whole.layout.window_index.shape[:2] == (2, 2)
    one = assemble(plan, samples, lambda name: images[name][0], **options)
    np.testing.assert_array_equal(whole.feature_index, one.feature_index)
    for lane, names in ((0, "ac"), (1, "b")):
        part = assemble(
            plan, samples, {n: images[n][0] for n in names}.__getitem__, lanes=LaneShare(lane, 1, 2), **options
        )
        for name in part._fields[:-2]:
            np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[2 * lane : 2 * lane + 2])
        np.testing.assert_array_equal(part.patches, whole.patches[:, lane : lane + 1])
    with pytest.raises(ValueError, match=r"got 4, data\*fsdp=3 \(config.train.image_chunks\)"):
        assemble(plan, samples, lambda name: images[name][0], lanes=LaneShare(0, 3, 3), **options)


def test_samples_may_share_a_row_as_segments():
    a, b = patches(1, 2, 4), patches(2, 4, 4)
    samples = samples_of([
        trajectory(4, 2, [3], [ImageSpan("a", 0, 2, a[1])]),
        trajectory(9, 2, [8]),
        trajectory(5, 3, [3, 4], [ImageSpan("b", 1, 2, b[1])]),
    ])  # fmt: skip
    plan = micro([0, 2], [], [1])
    packed = assemble(plan, samples, lambda name: {"a": a, "b": b}[name][0], n_chunks=2, bucket=BUCKET)
    np.testing.assert_array_equal(packed.segment_ids[0], [0] * 4 + [1] * 5 + [-1])
    assert (packed.segment_ids[1] == -1).all() and (packed.segment_ids[2] == [0] * 9 + [-1]).all()
    np.testing.assert_array_equal(packed.tokens[0], [1, 2, 3, 4, 1, 2, 3, 4, 5, 0])
    np.testing.assert_array_equal(packed.positions[0, 0], [0, 1, 2, 3, 0, 1, 2, 3, 4, 0])
    np.testing.assert_array_equal(packed.source[0], [-1, 0, 1, 2, -1, 4, 5, 6, 7, -1])
    np.testing.assert_array_equal(np.flatnonzero(packed.loss_mask[0]), [3, 7, 8])
    np.testing.assert_array_equal(packed.feature_index[0], [0, 1, -1, -1, -1, 4, 5, -1, -1, -1])
    back = unpacked(plan, samples, packed.tokens)
    assert {i: values.tolist() for i, values in back.items()} == {i: s.tokens.tolist() for i, s in enumerate(samples)}
    with pytest.raises(ValueError, match=r"got 13 tokens, a row of 10 \(config.rollout.max_tokens\)"):
        assemble(micro([1, 0]), samples, lambda name: a[0], n_chunks=1, bucket=BUCKET)


def test_a_prompt_that_samples_share_stands_once_in_front_of_what_each_has_of_its_own():
    a = patches(1, 2, 4)  # 2 image tokens
    spans = [ImageSpan("a", 1, 2, a[1])]
    made = [trajectory(6, 4, [4, 5], spans), trajectory(7, 4, [4, 6], [*spans, ImageSpan("b", 5, 1, (1, 2, 2))], row=1)]
    other = trajectory(5, 3, [3, 4])
    samples = [*samples_of(made, group_size=2), *samples_of([other])]
    assert [(s.group, s.prefix_len) for s in samples] == [(0, 4), (0, 4), (0, 0)]
    plan = MicroBatch(((Block((2,), 0), Block((0, 1), 4)),), 16)
    batch = assemble(plan, samples, {"a": a[0], "b": patches(2, 2, 2)[0]}.__getitem__, n_chunks=1, bucket=BUCKET)
    #                                                 other           prompt        own      own
    np.testing.assert_array_equal(batch.tokens[0], [1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 6, 5, 6, 7, 0, 0])
    np.testing.assert_array_equal(batch.segment_ids[0], [0] * 5 + [1] * 4 + [2] * 2 + [3] * 3 + [-1] * 2)
    np.testing.assert_array_equal(batch.prefix_ids[0], [-1] * 9 + [1] * 5 + [-1] * 2)
    np.testing.assert_array_equal(batch.source[0], [-1, 0, 1, 2, 3, -1, 5, 6, 7, 8, 9, 8, 11, 12, -1, -1])
    np.testing.assert_array_equal(batch.positions[0, 0], [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 4, 5, 6, 0, 0])
    np.testing.assert_array_equal(np.flatnonzero(batch.loss_mask[0]), [3, 4, 9, 10, 11, 13])
    np.testing.assert_array_equal(batch.feature_index[0], [-1] * 6 + [0, 1] + [-1] * 4 + [2] + [-1] * 3)
    back = unpacked(plan, samples, batch.tokens)
    assert [back[i].tolist() for i in range(3)] == [[0] * 4 + [5, 6], [0] * 4 + [5, 6, 7], [1, 2, 3, 4, 5]]


def test_a_group_whose_prompts_differ_shares_nothing():
    one, two = trajectory(6, 4, [4]), trajectory(6, 3, [4], row=1)
    moved = dataclasses.replace(one, positions=one.positions + 1)
    shown = [dataclasses.replace(one, images=(ImageSpan(name, 0, 1, (1, 2, 2)),)) for name in "ab"]
    for pair in ((one, two), (one, moved), shown):
        assert [s.prefix_len for s in samples_of(pair, group_size=2)] == [pair[0].prompt_len, 0]
    later = [dataclasses.replace(one, images=(ImageSpan(name, 4, 1, (1, 2, 2)),)) for name in "ab"]
    assert [s.prefix_len for s in samples_of(later, group_size=2)] == [4, 4]


def test_nothing_is_learnt_from_a_sample_that_is_not_valid():
    made = [trajectory(6, 4, [4, 5]), trajectory(6, 4, [4], row=1)]
    samples = samples_of(made, valid=[True, False], group_size=2, first_group=3)
    assert [s.loss_mask.sum() for s in samples] == [2, 0] and [s.group for s in samples] == [3, 3]


def test_too_many_images_are_refused_and_known_before():
    samples = samples_of([
        trajectory(8, 6, [7], [ImageSpan(f"{i}{k}", 4 * k, 4, (1, 4, 4)) for k in range(2)], row=i) for i in range(2)
    ])  # fmt: skip
    plan = micro([0], [1])
    assert images_fit(samples, 4, BUCKET)(plan.rows) and not images_fit(samples, 3, BUCKET)(plan.rows)
    assert images_fit(samples, 2, BUCKET)(plan.rows[:1])
    with pytest.raises(
        ValueError,
        match=r"got 4 distinct images in 4 chunks, image_chunks=3 \(config.train.image_chunks, config.rollout.max_im",
    ):
        assemble(plan, samples, lambda name: patches(1, 4, 4)[0], n_chunks=3, bucket=BUCKET)
