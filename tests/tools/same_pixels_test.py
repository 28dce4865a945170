"""OpenCV and Pillow in the sandbox, the image bank and the model's processor see the same pixels of odd files."""

import io
import json
import struct
import zlib

import numpy as np
import PIL.Image
import pytest

from arft_jax.data.images import ImageProcessor, decode_image, readable_formats
from arft_jax.tools.bank import ImageBank
from arft_jax.tools.sandbox import PythonSandbox
from arft_jax.trajectory import Image, ToolStatus

H, W = 40, 60
REPORT = """
import json, zlib, cv2, numpy as np
from PIL import Image as Picture, ImageOps
out = {}
for kind, seen in {
    "cv2": lambda p: cv2.imread(p)[:, :, ::-1],
    "cv2_unchanged": lambda p: cv2.imread(p, cv2.IMREAD_UNCHANGED)[:, :, ::-1],
    "pil": lambda p: np.array(Picture.open(p)),
    "pil_upright": lambda p: np.array(ImageOps.exif_transpose(Picture.open(p)).convert("RGB")),
}.items():
    pixels = np.ascontiguousarray(seen(PATH))
    out[kind] = [list(pixels.shape), str(pixels.dtype), zlib.crc32(pixels.tobytes())]
"""
TAIL = "\nprint(json.dumps(out))"


def encoded(picture, fmt, **options):
    buffer = io.BytesIO()
    picture.save(buffer, fmt, **options)
    return buffer.getvalue()


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def exif_jpeg():
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    return encoded(PIL.Image.fromarray(noise(H, W, 3)), "JPEG", exif=exif), (W, H)


def deep_png():
    grey = np.random.default_rng(0).integers(0, 65536, (H, W), dtype=np.uint16)
    return encoded(PIL.Image.fromarray(grey), "PNG"), (H, W)


def deep_colour_png():
    values = np.random.default_rng(0).integers(0, 65536, (H, W, 3), dtype=np.uint16)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", W, H, 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""), (H, W)


def clear_palette_png():
    picture = PIL.Image.fromarray(noise(H, W)).convert("P")
    picture.putpalette(noise(768).tobytes())
    return encoded(picture, "PNG", transparency=noise(256).tobytes()), (H, W)


def cmyk_jpeg():
    bands = [PIL.Image.fromarray(band) for band in noise(4, H, W)]
    return encoded(PIL.Image.merge("CMYK", bands), "JPEG"), (H, W)


def grey_alpha_png():
    return encoded(PIL.Image.merge("LA", [PIL.Image.fromarray(band) for band in noise(2, H, W)]), "PNG"), (H, W)


@pytest.fixture(scope="module")
def sandbox():
    with PythonSandbox(n_workers=1, timeout_s=30.0) as made:
        yield made


@pytest.mark.parametrize(
    "make",
    [exif_jpeg, deep_png, deep_colour_png, clear_palette_png, cmyk_jpeg, grey_alpha_png],
    ids=lambda f: f.__name__,
)
def test_code_and_model_see_the_same_pixels(sandbox, make):
    data, size = make()
    image = ImageBank([decode_image(data, "image_1")]).get("image_1")
    assert image.size == size
    expected = [[*size, 3], "uint8", zlib.crc32(image.pixels.tobytes())]
    for images, path in ((image, "path_to_input_image.jpg"), ({"image_1": image}, "image_1.png")):
        seen = sandbox.run(REPORT.replace("PATH", repr(path)) + TAIL, images)
        assert seen.status == ToolStatus.OK, seen.text
        assert json.loads(seen.text) == dict.fromkeys(("cv2", "cv2_unchanged", "pil", "pil_upright"), expected)
    named = "import zlib\npixels = np.array(image_1)\nprint(pixels.shape, zlib.crc32(pixels.tobytes()))"
    text = sandbox.run("import numpy as np\n" + named, {"image_1": image}).text
    assert text == f"{(*size, 3)} {expected[2]}"

    # What code hands back without loss is what it saw, and the model's patches of both are one.
    back = sandbox.run("import cv2\ncv2.imwrite('output_1.png', cv2.imread('image_1.png'))", {"image_1": image})
    processor = ImageProcessor(28 * 28, 64 * 28 * 28)
    np.testing.assert_array_equal(back.images[0].pixels, image.pixels)
    np.testing.assert_array_equal(processor(back.images[0].pixels)[0], processor(image.pixels)[0])


def test_a_file_that_code_writes_is_read_as_one_of_the_data(sandbox):
    """Through worker, child and decoder, with what each of them has loaded and may still do."""
    pixels = PIL.Image.fromarray(noise(H, W, 3))
    files = [make()[0] for make in (exif_jpeg, deep_png, deep_colour_png, clear_palette_png, cmyk_jpeg, grey_alpha_png)]
    files += [encoded(pixels, kind) for kind in readable_formats()]
    for data in files:
        source = f"open('path_to_output_image.jpg', 'wb').write({data!r})"
        seen = sandbox.run(source, Image(noise(8, 8, 3)))
        assert seen.status == ToolStatus.OK, (seen.text, data[:16])
        np.testing.assert_array_equal(seen.images[0].pixels, decode_image(data).pixels)


def test_without_the_door_code_would_see_other_pixels_than_the_model(tmp_path):
    """What the test above guards against is real: read as it lies there, each of these files looks different."""
    import cv2

    for make in (exif_jpeg, deep_png, clear_palette_png):
        path = tmp_path / "raw"
        path.write_bytes(make()[0])
        model = decode_image(path).pixels
        raw = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED), np.array(PIL.Image.open(path))]
        assert all(r.shape != model.shape or np.abs(r[:, :, ::-1].astype(int) - model).max() > 8 for r in raw)
