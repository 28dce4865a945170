"""Layouts: each patch in exactly one place, windows that never leave their image."""

import numpy as np
import pytest

from arft_jax.models.qwen2_5_vl.packing import count_windows, pack_layout

GRIDS = [(1, 10, 14), (1, 6, 22), (1, 8, 8)]


def _layout(grids=GRIDS, n_patches=360, n_windows=10):
    return pack_layout(grids, n_patches, n_windows, 112, 14, 2)


def test_patch_order_by_hand():
    # 4 x 4 patches, blocks of 2 x 2: (0,0) (0,1) (1,0) (1,1), then the block to the right
    hw = _layout([(1, 4, 4)], 16, 1).hw.tolist()
    assert hw[:8] == [[0, 0], [0, 1], [1, 0], [1, 1], [0, 2], [0, 3], [1, 2], [1, 3]]


def test_index_and_slot_are_inverse_and_padding_is_marked():
    layout = _layout()
    n = sum(h * w for _, h, w in GRIDS)
    assert (layout.segment_ids[n:] == -1).all() and (layout.segment_ids[:n] >= 0).all()
    np.testing.assert_array_equal(layout.window_index.ravel()[layout.window_slot[:n]], np.arange(n))
    assert (layout.window_index >= 0).sum() == n


def test_a_window_is_a_square_of_one_image():
    layout = _layout()
    for window in layout.window_index:
        patches = window[window >= 0]
        if patches.size:
            assert len(set(layout.segment_ids[patches])) == 1
            assert len({tuple(hw // 8) for hw in layout.hw[patches]}) == 1


def test_windows_are_counted():
    assert count_windows(GRIDS, 112, 14) == 2 * 2 + 1 * 3 + 1
    assert (_layout().window_index >= 0).any(axis=1).sum() == 8


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="at least 336: got 332"):
        _layout(n_patches=332)
    with pytest.raises(ValueError, match="n_windows must be at least 8: got 7"):
        _layout(n_windows=7)
    with pytest.raises(ValueError, match="multiples of 2"):
        _layout([(1, 3, 4)])
