"""Decoding of output files: every mode by its meaning, every fault in one sentence."""

import io

import numpy as np
import PIL.Image
import pytest

from arft_jax.data import images
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
    np.testing.assert_array_equal(pixels_of(PIL.Image.new("L", (5, 4), 77)), np.full((4, 5, 3), 77))


def test_sixteen_bits_keep_their_high_byte():
    values = np.array([[0, 256, 32896, 65535]] * 4, np.uint16)  # 0x0000 0x0100 0x8080 0xffff
    assert pixels_of(PIL.Image.fromarray(values))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_values_that_nothing_gives_a_scale_are_refused():
    for values in (np.array([[0.0] * 4] * 4, np.float32), np.array([[0] * 4] * 4, np.int32)):
        with pytest.raises(decode.BadImage, match="must have 8 or 16 bits a channel"):
            decode.decode_output(encode(PIL.Image.fromarray(values), "TIFF"), 10_000)


def test_transparency_shows_white_in_every_mode():
    rgba = PIL.Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    la = PIL.Image.new("LA", (4, 4), (0, 0))
    palette = PIL.Image.new("P", (4, 4), 0)
    for image, options in ((rgba, {}), (la, {}), (palette, {"transparency": 0})):
        np.testing.assert_array_equal(pixels_of(image, **options), np.full((4, 4, 3), 255))


def test_exif_orientation_is_applied():
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # to be turned 90 degrees clockwise for display
    values = np.arange(20, dtype=np.uint8).reshape(4, 5)
    turned = pixels_of(PIL.Image.fromarray(values), exif=exif)[:, :, 0]
    np.testing.assert_array_equal(turned, np.rot90(values, -1))


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
    with pytest.raises(decode.BadImage, match=r"too small \(3x40\)"):
        decode.decode_output(encode(PIL.Image.new("1", (3, 40))), 10_000)
    bomb = encode(PIL.Image.new("1", (16000, 16000)))
    with pytest.raises(decode.BadImage, match="too large"):
        decode.decode_output(bomb, 10_000)


def test_other_formats_are_refused():
    with pytest.raises(decode.BadImage, match="could not be read"):
        decode.decode_output(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 10_000)


def test_what_the_door_would_read_as_an_image_of_the_data_is_read_the_same():
    noise = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    files = [encode(noise.convert(mode), "TIFF") for mode in ("CMYK", "L", "P", "RGBA", "YCbCr")]
    files += [encode(noise, "JPEG", progressive=True), encode(noise, "GIF", save_all=True, append_images=[noise] * 2)]
    files += [encode(noise, kind) for kind in ("WEBP", "AVIF", "PPM") if kind in images.readable_formats()]
    for data in files:
        np.testing.assert_array_equal(decode.decode_output(data, 10_000).pixels, images.decode_image(data).pixels)
