import io

import numpy as np
import PIL.Image
import pytest

from arft_jax.data import images
from arft_jax.data.images import ImageProcessor, decode_image, encode_png
from arft_jax.trajectory import Image

SIZES = [(84, 84), (168, 168), (30, 200), (61, 97), (10, 20), (500, 333), (56, 28)]


def noise_image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def reference(min_pixels, max_pixels):
    module = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    return module.Qwen2VLImageProcessorPil(min_pixels=min_pixels, max_pixels=max_pixels)


@pytest.mark.parametrize("bounds", [(56 * 56, 28 * 28 * 1280), (7056, 7056), (3136, 20000)])
def test_patches_equal_those_of_transformers_bit_for_bit(bounds):
    theirs, ours = reference(*bounds), ImageProcessor(*bounds)
    for size in SIZES:
        pixels = noise_image(*size)
        expected = theirs(images=[pixels], input_data_format="channels_last")
        patches, grid = ours(pixels)
        assert patches.dtype == np.float32
        np.testing.assert_array_equal(patches, expected["pixel_values"])
        assert grid == tuple(expected["image_grid_thw"][0])


def test_grid_is_known_without_pixels_and_tokens_are_a_quarter_of_the_patches():
    processor = ImageProcessor(7056, 7056)
    for size in SIZES:
        patches, grid = processor(noise_image(*size))
        assert processor.grid_of(*size) == grid
        assert processor.n_tokens(grid) * 4 == len(patches)
    assert processor.grid_of(84, 84) == processor.grid_of(168, 168) == (1, 6, 6)


def test_the_four_patches_of_a_token_are_adjacent():
    pixels = np.zeros((56, 56, 3), np.uint8)
    pixels[0:28, 28:56] = 255  # the second merge block of the first row
    patches, _ = ImageProcessor(3136, 3136)(pixels)
    bright = patches.mean(axis=1) > 0
    assert bright.tolist() == [False] * 4 + [True] * 4 + [False] * 8


def test_pixels_must_be_rgb_bytes():
    with pytest.raises(ValueError, match="uint8"):
        ImageProcessor()(np.zeros((28, 28, 3), np.float32))
    with pytest.raises(ValueError, match="aspect ratio"):
        ImageProcessor()(np.zeros((2, 402, 3), np.uint8))
    with pytest.raises(ValueError, match="min_pixels"):
        ImageProcessor(100, 50)


def test_decode_stands_the_picture_upright_by_its_exif():
    picture = PIL.Image.new("RGB", (40, 20), "red")
    exif = picture.getexif()
    exif[0x0112] = 6  # turned by a quarter
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", exif=exif)
    assert decode_image(buffer.getvalue(), "x").size == (40, 20)  # (height, width): 40 high now


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    PIL.Image.new(mode, (8, 6)).save(path)
    image = decode_image(path)
    assert image.pixels.shape == (6, 8, 3) and image.pixels.dtype == np.uint8


def test_transparency_becomes_white():
    buffer = io.BytesIO()
    PIL.Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(buffer, format="PNG")
    assert (decode_image(buffer.getvalue()).pixels == 255).all()


def test_png_round_trips():
    image = Image(noise_image(13, 17), "a")
    assert decode_image(encode_png(image), "a").sha256 == image.sha256


def test_missing_or_broken_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"must exist.*nothing\.png"):
        decode_image(tmp_path / "nothing.png")
    broken = tmp_path / "broken.png"
    broken.write_bytes(encode_png(Image(noise_image(50, 50)))[:800])
    with pytest.raises(ValueError, match=r"must be readable.*broken\.png"):
        decode_image(broken)
    text = tmp_path / "text.png"
    text.write_text("no picture")
    with pytest.raises(ValueError, match=r"must be readable.*text\.png"):
        decode_image(text)
    with pytest.raises(ValueError, match="must be readable"):
        decode_image(tmp_path)


def test_the_header_is_checked_before_pixels_are_decoded(monkeypatch):
    monkeypatch.setattr(images, "MAX_DECODE_PIXELS", 99)
    with pytest.raises(ValueError, match=r"at most 99 pixels: got 10x10 in shot"):
        decode_image(encode_png(Image(noise_image(10, 10))), "shot")
