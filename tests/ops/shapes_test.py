"""Shape checks name what must hold and what was got."""

import numpy as np
import pytest

from arft_jax.ops.shapes import check_axes


def test_sizes_come_back_by_letter():
    assert check_axes(q=(np.zeros((2, 3)), "BT"), m=(np.zeros((3, 5)), "TS")) == {"B": 2, "T": 3, "S": 5}


def test_a_clash_names_both_arrays():
    with pytest.raises(ValueError, match="axis B of m must be 2 as in q: got B=4"):
        check_axes(q=(np.zeros((2, 3)), "BT"), m=(np.zeros((4,)), "B"))


def test_a_wrong_rank_names_the_axes():
    with pytest.raises(ValueError, match=r"q must have the axes \[B, T\]: got shape \(2,\)"):
        check_axes(q=(np.zeros((2,)), "BT"))
