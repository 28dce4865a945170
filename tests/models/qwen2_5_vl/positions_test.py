"""M-RoPE positions by hand, and piece by piece equal to the whole."""

import numpy as np
import pytest

from arft_jax.models.qwen2_5_vl.positions import image_positions, mrope_positions, text_positions

IMAGE = 99


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


def test_tokens_and_grids_must_match():
    with pytest.raises(ValueError, match="as many as the grids say, 6: got 5"):
        mrope_positions(np.full(5, IMAGE), [(1, 4, 6)], IMAGE, 2)
    with pytest.raises(ValueError, match="6 image tokens in one run"):
        mrope_positions(np.array([IMAGE] * 3 + [0] + [IMAGE] * 3), [(1, 4, 6)], IMAGE, 2)
    with pytest.raises(ValueError, match=r"\(1, h, w\)"):
        image_positions(0, (2, 4, 6), 2)
