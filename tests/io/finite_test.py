"""Every value that is NaN or infinite is found, whatever its bits, and no number is taken for one."""

import ml_dtypes
import numpy as np
import pytest

from arft_jax.io.finite import check_finite, is_finite


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16])
def test_all_values_of_16_bits_are_judged_as_isfinite_judges_them(kind):
    for values in np.arange(2**16, dtype=np.uint16).reshape(256, 256):
        every = values.view(kind)
        with np.errstate(invalid="ignore"):  # signalling NaNs
            good = np.isfinite(every)
        assert is_finite(every[good]) and is_finite(every) == good.all()
        assert not any(is_finite(every[at : at + 1]) for at in np.flatnonzero(~good))


def test_float32_and_the_other_types():
    tiny = np.finfo(np.float32)
    assert is_finite(np.array([tiny.max, tiny.min, tiny.tiny, -0.0], np.float32))
    for bits in (0x7F800000, 0xFF800000, 0x7F800001, 0xFFFFFFFF, 0x7FC00000):
        assert not is_finite(np.array([0, bits], np.uint32).view(np.float32))
    assert is_finite(np.zeros(0, np.float32)) and is_finite(np.array(7)) and is_finite(np.array([True]))


def test_the_sentence_names_tensor_and_file():
    with pytest.raises(ValueError, match="^weights must be finite numbers: got -inf in a.b of x/y, 2 of 3 values"):
        check_finite(np.array([1, -np.inf, np.nan], np.float32), "a.b", "x/y")
