"""Faults for pictures of any size: every repair brings the picture nearer to what it was, and follows from the kind."""

import numpy as np
import PIL.Image
import pytest

from arft_jax.data.synthetic import degrade, photo_faults
from arft_jax.protocol import INPUT_NAME, OUTPUT_NAME


def photo(height, width):
    """Colour gradients, edges, fine text-like stripes, some black and white."""
    y, x = np.mgrid[:height, :width] / min(height, width)
    pixels = np.stack(
        [0.5 + 0.5 * np.sin(9 * x), 0.5 + 0.5 * np.sin(7 * y + 2), 0.3 + 0.7 * (x + y) / (x + y).max()], -1
    )
    pixels[height // 3 : height // 2, width // 4 : width // 2] = 0.0
    pixels[height // 3 : height // 2, width // 2 : 3 * width // 4] = 1.0
    pixels[(np.arange(height) // 6 % 2 == 0) & (np.arange(height) > 0.8 * height)] *= 0.2
    return np.rint(255 * pixels).astype(np.uint8)


def repaired(pixels, kinds, folder, monkeypatch, box=None):
    """What the code makes of a picture, run as it is written."""
    monkeypatch.chdir(folder)
    PIL.Image.fromarray(pixels).save(INPUT_NAME, format="PNG")
    exec(photo_faults.repair_code(kinds, box), {})
    with PIL.Image.open(OUTPUT_NAME) as file:
        return np.asarray(file.convert("RGB"))


def error(a, b):
    return float(np.abs(a.astype(float) - b).mean()) if a.shape == b.shape else np.inf


@pytest.mark.parametrize("kinds", photo_faults.FAULT_SETS, ids="+".join)
@pytest.mark.parametrize("size", [(120, 90), (360, 480)])
def test_the_repair_brings_the_picture_nearer_to_what_it_was(kinds, size, tmp_path, monkeypatch):
    original = photo(*size)
    spoilt = photo_faults.spoil(original, kinds, np.random.default_rng(0))
    if kinds == ("none",):
        assert np.array_equal(spoilt, original)
        return
    before, after = error(original, spoilt), error(original, repaired(spoilt, kinds, tmp_path, monkeypatch))
    assert after < (1.0 if "blur" in kinds else 0.8) * before, (before, after)  # what blur has taken is gone for good


def test_dark_is_drawn_around_what_the_published_items_show():
    white = np.full((4, 4, 3), 255, np.uint8)
    levels = [int(photo_faults.spoil(white, ("dark",), np.random.default_rng(i))[0, 0, 0]) for i in range(200)]
    assert 38 <= min(levels) < 45 and 58 < max(levels) <= 64  # 0.15 to 0.25 of 255; MAT's is 51


def test_the_published_dark_item_is_of_that_strength(mat_dir):
    with PIL.Image.open(mat_dir / "dark_1_proc.png") as file:
        assert np.asarray(file).max() == 51  # a fifth of 255


def test_a_crop_is_cut_by_its_box(tmp_path, monkeypatch):
    original = photo(120, 90)
    cut = repaired(original, ("crop",), tmp_path, monkeypatch, (100, 200, 500, 700))
    assert error(cut, degrade.crop_box(original, (100, 200, 500, 700))) < 5  # the file that the paper names is a JPEG


def test_the_same_draws_are_the_same_picture():
    original = photo(300, 200)
    for kinds in photo_faults.FAULT_SETS:
        made = [photo_faults.spoil(original, kinds, np.random.default_rng(seed)) for seed in (1, 1, 2)]
        assert np.array_equal(made[0], made[1])
        if set(kinds) - {"none", "rotation90", "rotation180"}:
            assert not np.array_equal(made[0], made[2])
