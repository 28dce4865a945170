"""The host's record of a slot: hand cases."""

import numpy as np
import pytest

from arft_jax.data.chat import Segment
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.rollout.row import Feed, Injection, Row, image_spans
from arft_jax.testing.tiny_rollout import tiny_image, tiny_task
from arft_jax.testing.toolboxes import problem_call
from arft_jax.tools.bundled import paper_syntax
from arft_jax.trajectory import Observation, Status

PAD = 7  # the image token of these hand cases


def segment(tokens, images=(), grids=(), lens=()):
    tokens = np.array(tokens, np.int32)
    return Segment(tokens, tuple(images), tuple(grids), tuple(lens), tokens == PAD)


def straight(start, n):
    return np.tile(np.arange(start, start + n, dtype=np.int32), (3, 1))


def injection(tokens, images=(), grids=(), lens=(), n_pixels=0):
    """Positions as of text, whatever the images."""
    seg = segment(tokens, images, grids, lens)
    return Injection(seg, image_spans(seg), straight(0, len(tokens)), len(tokens), n_pixels)


def test_image_spans_split_touching_images_by_their_lengths():
    images = [tiny_image(1, 28, 56), tiny_image(2)]
    spans = image_spans(segment([1, PAD, PAD, PAD, 2], images, [(1, 2, 4), (1, 2, 2)], [2, 1]))
    assert [(s.sha256, s.start, s.n, s.grid) for s in spans] == [
        (images[0].sha256, 1, 2, (1, 2, 4)),
        (images[1].sha256, 3, 1, (1, 2, 2)),
    ]


def test_a_feed_begins_with_the_sampled_token_whose_column_is_not_written():
    image = tiny_image(1, 28, 56)
    seg = segment([1, PAD, PAD, 2], [image], [(1, 2, 4)], [2])
    feed = Feed(3, seg, image_spans(seg), straight(10, 4), 20, (99, 9))
    tokens, positions, index = feed.stream({image.sha256: 5})
    assert feed.first_column == 19
    np.testing.assert_array_equal(tokens, [99, 1, PAD, PAD, 2])
    np.testing.assert_array_equal(positions, [[9, 10, 11, 12, 13]] * 3)
    np.testing.assert_array_equal(index, [-1, -1, 5, 6, -1])
    prompt = Feed(3, seg, image_spans(seg), straight(0, 4), 0, None)
    assert prompt.first_column == 0 and len(prompt.stream({image.sha256: 5})[0]) == 4


def test_an_injection_stands_behind_the_row_and_is_fed_with_its_last_token():
    row, image = Row(tiny_task(1), 0, 0, 0, 4), tiny_image(1, 28, 56)
    prompt = injection([1, 2, 3])
    feed = row.inject(prompt)
    assert (feed.slot, feed.start, feed.pending, feed.segment) == (4, 0, None, prompt.segment)
    np.testing.assert_array_equal(feed.positions, straight(0, 3))
    row.sample(np.array([8, 9]), np.zeros(2))  # columns 3 and 4; the last one is not written yet
    reply = injection([4, PAD, PAD, 5], [image], [(1, 2, 4)], [2], n_pixels=1568)
    feed = row.inject(reply)
    assert (feed.start, feed.first_column, feed.pending) == (5, 4, (9, 4))
    np.testing.assert_array_equal(feed.positions, straight(5, 4))
    assert [(span.start, span.n) for span in feed.spans] == [(1, 2)]  # of the segment; the row's stand behind it
    assert [(span.start, span.n) for span in row.trajectory(Status.TOKENS).images] == [(6, 2)]
    assert (row.length, row.next_position, row.n_images, row.n_pixels) == (9, 9, 1, 1568)
    np.testing.assert_array_equal(prompt.positions, straight(0, 3))  # other rows of the group take the same one in


def test_a_turn_is_bounded_by_its_own_budget_and_by_the_rows():
    row = Row(tiny_task(1), 0, 0, 0, 0)
    row.inject(injection([1, 2, 3]))
    row.open_turn(10, 100)
    assert (row.bound, row.limit) == (3, 13)
    row.open_turn(10, 8)
    assert (row.bound, row.limit) == (3, 8)
    row.expect(4)
    assert row.bound == 7
    row.expect(4)  # not beyond the limit
    assert row.bound == 8


def test_a_row_grows_by_segments_and_turns():
    tokenizer = Tokenizer.tiny()
    task = tiny_task(1, "coding")
    row = Row(task, 5, 2, 0, 1)
    assert row.context.newest.pixels is task.images[0].pixels and row.context.newest.name == "image_1"
    row.inject(injection([1, PAD, 2], task.images, [(1, 2, 2)], [1]))
    turn = [*tokenizer.encode("<problem>{'dark'}</problem>")]
    row.sample(np.array(turn), np.full(len(turn), -0.5))
    action = row.read_turn(tokenizer, paper_syntax())
    assert action == row.turns[0].call == problem_call("dark") and not row.turns[0].in_form  # it has no thought
    assert row.last_token == (turn[-1], 2 + len(turn)) and row.next_position == row.length == 3 + len(turn)
    new = tiny_image(2)
    row.attach(Observation("Write code.", (new,)))
    assert (
        row.context.newest.pixels is new.pixels
        and row.context.newest.name == "image_2"
        and row.turns[0].observation.text == "Write code."
    )
    row.inject(injection([3, PAD, 4], [new], [(1, 2, 2)], [1]))
    t = row.trajectory(Status.TURN_LIMIT)
    n = len(turn)
    assert (t.prompt_len, t.row, t.status, len(t.tokens)) == (3, 2, Status.TURN_LIMIT, 6 + n)
    np.testing.assert_array_equal(t.loss_mask, [False] * 3 + [True] * n + [False] * 3)
    np.testing.assert_array_equal(t.observation_mask, [False] * (3 + n) + [True] * 3)
    np.testing.assert_array_equal(t.sampler_logps, np.array([0] * 3 + [-0.5] * n + [0] * 3, np.float32))
    assert [(s.start, s.n) for s in t.images] == [(1, 1), (3 + n + 1, 1)]
    np.testing.assert_array_equal(t.positions[0], np.arange(6 + n))
    assert (t.tokens.dtype, t.positions.dtype, t.sampler_logps.dtype) == (np.int32, np.int32, np.float32)


def test_a_restarted_row_keeps_its_turns_as_text_alone():
    row = Row(tiny_task(1), 0, 0, 0, 0)
    row.inject(injection([1, PAD], [tiny_image(1)], [(1, 2, 2)], [1], n_pixels=784))
    row.sample(np.array([3]), np.zeros(1), versions=np.array([4]))
    row.read_turn(Tokenizer.tiny(), paper_syntax())
    assert (row.n_images, row.n_pixels) == (1, 784)
    row.restart()
    assert (row.length, row.next_position, row.n_images, row.n_pixels) == (0, 0, 0, 0)
    row.inject(injection([5, 6, 7 + PAD]))
    t = row.trajectory(Status.TOKENS)
    assert (t.tokens.tolist(), t.prompt_len, t.versions.tolist()) == ([5, 6, 14], 3, [-1] * 3)
    assert [(turn.text, turn.start, turn.end) for turn in t.turns] == [(t.turns[0].text, 0, 0)] and t.turns[0].text


def test_a_decode_call_that_adds_more_than_it_can_is_an_error():
    row = Row(tiny_task(1), 0, 3, 0, 0)
    row.inject(injection([1, 2]))
    row.grow(np.arange(4), np.zeros(4), 5, version=1)
    assert row.turn_len == 3
    with pytest.raises(ValueError, match="a decode call adds at most 4 tokens: got 5 for row 3"):
        row.grow(np.arange(4), np.zeros(4), 10)


def test_an_observation_without_an_image_keeps_the_current_one():
    row = Row(tiny_task(1), 0, 0, 0, 0)
    row.inject(injection([1, 2]))
    row.sample(np.array([3]), np.zeros(1))
    row.read_turn(Tokenizer.tiny(), paper_syntax())
    before = row.context.newest
    row.attach(Observation("nothing"))
    assert row.context.newest is before
