"""Decoding of output files: every mode by its meaning, every fault in one sentence."""

import io

import numpy as np
import PIL.Image
import pytest

from arft_jax.tools.sandbox import decode


def encode(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels_of(image, kind="PNG", **options):
    decoded = decode.decode_output(encode(image, kind, **options), 10_000).pixels
    assert decoded.dtype == np.uint8 and decoded.shape[2] == 3
    return decoded


def test_grey_becomes_three_equal_channels():
    np.testing.assert_array_equal(pixels_of(PIL.Image.new("L", (3, 2), 77)), np.full((2, 3, 3), 77))


def test_sixteen_bits_keep_their_high_byte():
    values = np.array([[0, 256, 32896, 65535]], np.uint16)  # 0x0000 0x0100 0x8080 0xffff
    assert pixels_of(PIL.Image.fromarray(values))[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize(
    ("values", "expected"), [([0.0, 0.5, 1.0], [0, 128, 255]), ([0.0, 200.0, 300.0], [0, 200, 255])]
)
def test_floats_are_scaled_by_their_range(values, expected):
    image = PIL.Image.fromarray(np.array([values], np.float32))
    assert pixels_of(image, "TIFF")[0, :, 0].tolist() == expected


def test_transparency_shows_white_in_every_mode():
    rgba = PIL.Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    la = PIL.Image.new("LA", (2, 2), (0, 0))
    palette = PIL.Image.new("P", (2, 2), 0)
    for image, options in ((rgba, {}), (la, {}), (palette, {"transparency": 0})):
        np.testing.assert_array_equal(pixels_of(image, **options), np.full((2, 2, 3), 255))


def test_exif_orientation_is_applied():
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # to be turned 90 degrees clockwise for display
    image = PIL.Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3))
    np.testing.assert_array_equal(pixels_of(image, exif=exif)[:, :, 0], [[3, 0], [4, 1], [5, 2]])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "WEBP"])
def test_truncated_files_are_unreadable(kind):
    noise = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    data = encode(noise, kind)
    for n_bytes in (0, 1, 10, len(data) // 2):
        with pytest.raises(decode.BadImage, match="could not be read"):
            decode.decode_output(data[:n_bytes], 10_000)


def test_the_header_is_checked_before_the_pixels():
    image = PIL.Image.new("1", (400, 300))
    with pytest.raises(decode.BadImage, match=r"too large \(400x300\)"):
        decode.decode_output(encode(image)[:60], 10_000)  # no pixel data is there to decode
    with pytest.raises(decode.BadImage, match=r"too narrow \(1x300\)"):
        decode.decode_output(encode(PIL.Image.new("1", (1, 300))), 10_000)
    bomb = encode(PIL.Image.new("1", (16000, 16000)))
    with pytest.raises(decode.BadImage, match="too large"):
        decode.decode_output(bomb, 10_000)


def test_other_formats_are_refused():
    with pytest.raises(decode.BadImage, match="could not be read"):
        decode.decode_output(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 10_000)
