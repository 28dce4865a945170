"""The one place of rendering: which system text a prompt has, and what is told of a segment."""

import dataclasses

import numpy as np
import pytest

from arft_jax.data import chat
from arft_jax.data.batch import VisionBucket
from arft_jax.data.images import ImageProcessor
from arft_jax.data.patches import PatchStore
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.rollout.renderer import Renderer
from arft_jax.rollout.row import Row
from arft_jax.testing.tiny_model import TINY_PACKING
from arft_jax.testing.tiny_rollout import tiny_image, tiny_task
from arft_jax.tools.bundled import paper_syntax
from arft_jax.trajectory import Observation, Status

SIZES = [(28, 56), (56, 56)]


def renderer(system):
    return Renderer(
        Tokenizer.tiny(),
        PatchStore(ImageProcessor(28 * 28, 56 * 56)),
        VisionBucket(64, 8, TINY_PACKING),
        system,
        paper_syntax(),
    )


@pytest.fixture(scope="module")
def by_kind():
    texts = {"coding": "Fix.", "search": "Search."}
    return renderer(lambda task: texts[task.kind])


def test_a_prompt_has_the_system_text_of_its_own_task():
    mine = renderer(lambda task: f"Be {task.id}.")
    task = tiny_task(1)
    text = mine.tokenizer.decode(mine.prompt(task).tokens)
    assert "Be t1." in text and task.question in text
    other = mine.tokenizer.decode(mine.prompt(dataclasses.replace(task, id="brief")).tokens)
    assert other == text.replace("Be t1.", "Be brief.")
    bare = renderer(lambda task: "").prompt(task)
    expected = chat.prompt_segment(mine.tokenizer, mine.patches.processor, "", task.question, task.images)
    np.testing.assert_array_equal(bare.tokens, expected.tokens)


def test_a_kind_has_its_system_text(by_kind):
    for kind, text in (("coding", "Fix."), ("search", "Search.")):
        assert text in by_kind.tokenizer.decode(by_kind.prompt(tiny_task(1, kind)).tokens)


def test_an_injection_tells_where_a_segments_images_stand_and_how_large_they_are(by_kind):
    segment = by_kind.prompt(tiny_task(1, sizes=SIZES))
    injection = by_kind.injection(segment)
    first = int(np.argmax(segment.is_image))
    # 28 x 56 px are a grid of 2 x 4 patches, 2 tokens; 56 x 56 px 4 x 4 patches, 4 tokens, behind an end and a start
    assert [(s.start, s.n, s.grid) for s in injection.spans] == [(first, 2, (1, 2, 4)), (first + 4, 4, (1, 4, 4))]
    assert injection.n_pixels == 28 * 56 + 56 * 56 == by_kind.n_pixels(segment)
    assert injection.segment is segment and injection.positions.shape == (3, len(segment.tokens))
    # an image of 1 x 2 blocks takes 2 positions, one of 2 x 2 blocks 2 as well, however many tokens they are
    assert injection.next_position == len(segment.tokens) - (2 - 2) - (4 - 2)


def test_positions_of_a_row_are_those_of_its_whole_stream(by_kind):
    task, row = tiny_task(1, sizes=SIZES), Row(tiny_task(1, sizes=SIZES), 0, 0, 0, 0)
    row.inject(by_kind.injection(by_kind.prompt(task)))
    turn = by_kind.turn("<think>a</think><search>b</search>")
    row.sample(turn, np.zeros(len(turn)))
    seen = by_kind.observation(Observation("seen", (tiny_image(5, 56, 28),)))
    row.inject(by_kind.injection(seen))
    t = row.trajectory(Status.TOKENS)
    parts = [by_kind.prompt(task), seen]
    pads = t.tokens == by_kind.tokenizer.image_pad_id
    whole = chat.Segment(
        t.tokens, sum((p.images for p in parts), ()), sum((p.grids for p in parts), ()),
        sum((p.image_lens for p in parts), ()), pads,
    )  # fmt: skip
    np.testing.assert_array_equal(t.positions, by_kind.positions(whole)[0])
    assert row.next_position == by_kind.positions(whole)[1] and row.n_pixels == by_kind.n_pixels(whole)


def test_a_turn_is_its_text_encoded(by_kind):
    turn = by_kind.turn("<answer>7</answer>")
    assert turn.dtype == np.int32 and turn.tolist() == by_kind.tokenizer.encode("<answer>7</answer>")
    assert by_kind.turn("").shape == (0,)


def test_a_sliver_cannot_be_shown(by_kind):
    assert by_kind.can_show(tiny_image(1)) and not by_kind.can_show(tiny_image(1, 2, 1000))
