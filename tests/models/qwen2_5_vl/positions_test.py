"""M-RoPE positions by hand, against transformers, and piece by piece equal to the whole."""

import numpy as np
import pytest

from arft_jax.models.qwen2_5_vl.positions import image_positions, mrope_positions, text_positions
from arft_jax.testing import parity

IMAGE = 99


def case_name(value):
    return value.name if isinstance(value, parity.Case) else None


def test_positions_by_hand():
    # a b | 2 x 3 merged | c: text 0 1; image from 2: rows 2..3, columns 2..4; next 2 + max(2, 3) = 5
    tokens = np.array([1, 2, *[IMAGE] * 6, 3])
    positions, following = mrope_positions(tokens, [(1, 4, 6)], IMAGE, 2)
    assert positions.tolist() == [
        [0, 1, 2, 2, 2, 2, 2, 2, 5],
        [0, 1, 2, 2, 2, 3, 3, 3, 5],
        [0, 1, 2, 3, 4, 2, 3, 4, 5],
    ]
    assert following == 6 and positions.dtype == np.int32


def test_images_that_touch_each_start_after_the_one_before():
    positions, following = mrope_positions(np.full(3, IMAGE), [(1, 2, 4), (1, 2, 2)], IMAGE, 2)
    assert positions.tolist() == [[0, 0, 2], [0, 0, 2], [0, 1, 2]] and following == 3


@pytest.mark.parametrize("n_images", [0, 1, 2, 5])
def test_piece_by_piece_equals_the_whole(n_images):
    rng = np.random.default_rng(n_images)
    tokens, pieces, position = [], [], 0
    grids = [(1, 2 * int(h), 2 * int(w)) for h, w in rng.integers(1, 5, (n_images, 2))]
    for grid in grids:
        n_text = int(rng.integers(0, 4))
        text, position = text_positions(position, n_text)
        image, position = image_positions(position, grid, 2)
        pieces += [text, image]
        tokens += [0] * n_text + [IMAGE] * image.shape[1]
    text, position = text_positions(position, 3)
    whole, following = mrope_positions(np.array(tokens + [0] * 3), grids, IMAGE, 2)
    np.testing.assert_array_equal(whole, np.concatenate([*pieces, text], axis=1))
    assert following == position


@pytest.mark.parametrize("case", parity.CASES, ids=case_name)
def test_a_sampler_that_extends_its_rows_reaches_the_positions_of_the_whole(case):
    """Prompt whole, then token by token and image by image, each from the next position that the row holds."""
    config = parity.parity_config(tied=True)
    batch = parity.make_batch(case, config)
    for row, grids in zip(batch.rows, batch.grids, strict=True):
        whole, following = mrope_positions(row, grids, config.image_token_id, 2)
        runs = np.split(row, np.flatnonzero(np.diff(row == config.image_token_id)) + 1)
        pieces, position, left = [], 0, list(grids)
        for run in runs:
            if run[0] == config.image_token_id:
                piece, position = image_positions(position, left.pop(0), 2)
                pieces.append(piece)
            else:
                for _ in run:
                    piece, position = text_positions(position, 1)
                    pieces.append(piece)
        np.testing.assert_array_equal(np.concatenate(pieces, axis=1), whole)
        assert position == following == whole.max() + 1 and not left


@pytest.mark.torch
@pytest.mark.parametrize("case", parity.CASES, ids=case_name)
@pytest.mark.parametrize("pair", [True], indirect=True, ids=["tied"])
def test_positions_equal_those_of_transformers(case, pair):
    batch = parity.make_batch(case, pair.ours.config)
    arguments, valid = parity.their_inputs(pair.theirs, batch)
    theirs = np.moveaxis(arguments["position_ids"].numpy(), 0, 1)
    for row, grids, expected, mask in zip(batch.rows, batch.grids, theirs, valid, strict=True):
        ours, _ = mrope_positions(row, grids, pair.ours.config.image_token_id, 2)
        np.testing.assert_array_equal(ours, expected[:, mask])


def test_tokens_and_grids_must_match():
    with pytest.raises(ValueError, match="as many as the grids say, 6: got 5"):
        mrope_positions(np.full(5, IMAGE), [(1, 4, 6)], IMAGE, 2)
    with pytest.raises(ValueError, match="6 image tokens in one run"):
        mrope_positions(np.array([IMAGE] * 3 + [0] + [IMAGE] * 3), [(1, 4, 6)], IMAGE, 2)
    with pytest.raises(ValueError, match=r"\(1, h, w\)"):
        image_positions(0, (2, 4, 6), 2)
