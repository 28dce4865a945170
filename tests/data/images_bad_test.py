"""Forty and more bad images through the door: quarantined or right, and in bounded memory."""

import io
import json
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import PIL.Image
import pytest

from arft_jax.data import images
from arft_jax.data.images import decode_image

PEAK_MB = 400  # what the door may take above the base
WHITE = 255


# ----------------------------------------------------------------------------------- what files are made of


def encoded(picture, fmt="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, format=fmt, **options)
    return buffer.getvalue()


def png(width, height, depth, colour_type, idat, *chunks):
    """A PNG written by hand: headers that lie, depths that Pillow does not write."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0))]
    parts += [chunk(kind, data) for kind, data in (*chunks, (b"IDAT", idat))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def flat_png(width, height, depth, colour_type, row):
    """One row, again and again, without ever holding the picture."""
    packer = zlib.compressobj(1)
    return png(
        width, height, depth, colour_type, b"".join([packer.compress(row) for _ in range(height)]) + packer.flush()
    )


def deep_png(colour_type, values):
    """16-bit rows, four of them equal."""
    width = len(values) // {0: 1, 2: 3, 4: 2}[colour_type]
    return png(width, 4, 16, colour_type, zlib.compress(4 * (b"\0" + struct.pack(f">{len(values)}H", *values))))


def quarters(mode="RGB"):
    """32 x 48: four flat quarters of 16 x 24 px, so that JPEG is right to a grey level."""
    colours = {
        "RGB": ((255, 0, 0), (0, 255, 0), (0, 0, 255), (90, 120, 30)),
        "CMYK": ((0, 255, 255, 0), (100, 0, 50, 60), (0, 0, 0, 255), (10, 20, 30, 0)),
        "RGBA": ((255, 0, 0, 255), (9, 9, 9, 0), (0, 0, 200, 128), (0, 0, 0, 1)),
        "LA": ((0, 0), (0, 255), (100, 128), (255, 3)),
        "L": (0, 80, 160, 255),
        "P": (0, 1, 2, 3),
        "1": (0, 1, 1, 0),
    }[mode]
    made = PIL.Image.new(mode, (48, 32))
    for i, colour in enumerate(colours):
        made.paste(colour, (24 * (i % 2), 16 * (i // 2), 24 * (i % 2) + 24, 16 * (i // 2) + 16))
    if mode == "P":
        made.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 200, 210, 220])
    return made


def shown(*colours):
    """What the quarters must look like: the oracle, written without Pillow."""
    pixels = np.zeros((32, 48, 3))
    for i, colour in enumerate(colours):
        top, left = 16 * (i // 2), 24 * (i % 2)
        pixels[top : top + 16, left : left + 24] = colour
    return pixels


def over_white(*colours):
    return shown(*[np.array(c[:-1]) * c[-1] / 255 + 255 - c[-1] for c in colours])


def exif(orientation):
    made = PIL.Image.Exif()
    made[0x0112] = orientation
    return made


def tiff(*entries, data=b""):
    """A TIFF of SHORT entries, pixels at byte 256."""
    packed = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in entries)
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + packed + b"\0\0\0\0"
    return head.ljust(256, b"\0") + data


def claiming_sides(jpeg):
    """The same progressive JPEG, of 7000 x 7000 by its header."""
    at = jpeg.index(b"\xff\xc2") + 5  # marker, length, precision
    return jpeg[:at] + struct.pack(">HH", SIDE, SIDE) + jpeg[at + 4 :]


def animation(fmt, **options):
    frames = [PIL.Image.new("RGB", (16, 8), colour) for colour in ("red", "lime", "blue")]
    return encoded(frames[0], fmt, save_all=True, append_images=frames[1:], **options)


RGB = shown((255, 0, 0), (0, 255, 0), (0, 0, 255), (90, 120, 30))
RED = np.full((8, 16, 3), (255, 0, 0))
GREYS = np.repeat(np.array([[0, 0x12FF, 0x8000, 65535]]) / 257, 4, 0)[:, :, None].repeat(3, 2)
GOOD = encoded(quarters())
CUT_EXIF = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01"  # five entries are promised, half of one is there
DEEP_TIFF = (256, 4), (257, 4), (258, 16), (259, 1), (262, 1), (273, 256), (277, 1), (278, 4), (279, 32)
ROWS_16 = struct.pack("<4H", 0, 0x12FF, 0x8000, 65535) * 4
NEGATIVE = [entry if entry[0] != 262 else (262, 0) for entry in DEEP_TIFF]
SIDE = 7000  # squared: 49 million pixels

RIGHT = {  # file -> (how it is made, float[h, w, 3] that it must show)
    "exif_turned.jpg": (
        lambda: encoded(quarters(), "JPEG", exif=exif(6), quality=100, subsampling=0),
        np.rot90(RGB, -1),
    ),
    "exif_mirrored.png": (lambda: encoded(quarters(), exif=exif(2)), RGB[:, ::-1]),
    "exif_transposed.tif": (lambda: encoded(quarters(), "TIFF", exif=exif(5)), RGB.swapaxes(0, 1)),
    "exif_of_no_meaning.png": (lambda: encoded(quarters(), exif=exif(99)), RGB),
    "exif_cut.jpg": (lambda: encoded(quarters(), "JPEG", exif=CUT_EXIF, quality=100, subsampling=0), RGB),
    "cmyk.jpg": (
        lambda: encoded(quarters("CMYK"), "JPEG", quality=100, subsampling=0),
        shown((255, 0, 0), (195 * 155 / 255, 195, 195 * 205 / 255), (0, 0, 0), (245, 235, 225)),
    ),
    "cmyk.tif": (
        lambda: encoded(quarters("CMYK"), "TIFF"),
        shown((255, 0, 0), (195 * 155 / 255, 195, 195 * 205 / 255), (0, 0, 0), (245, 235, 225)),
    ),
    "palette.png": (lambda: encoded(quarters("P")), shown((10, 20, 30), (40, 50, 60), (70, 80, 90), (200, 210, 220))),
    "palette_one_clear.png": (
        lambda: encoded(quarters("P"), transparency=1),
        shown((10, 20, 30), WHITE, (70, 80, 90), (200, 210, 220)),
    ),
    "palette_alpha.png": (
        lambda: encoded(quarters("P"), transparency=bytes([255, 0, 128, 64])),
        over_white((10, 20, 30, 255), (40, 50, 60, 0), (70, 80, 90, 128), (200, 210, 220, 64)),
    ),
    "palette_clear.gif": (
        lambda: encoded(quarters("P"), "GIF", transparency=2),
        shown((10, 20, 30), (40, 50, 60), WHITE, (200, 210, 220)),
    ),
    "grey_alpha.png": (lambda: encoded(quarters("LA")), over_white((0, 0), (0, 255), (100, 128), (255, 3))),
    "alpha.png": (
        lambda: encoded(quarters("RGBA")),
        over_white((255, 0, 0, 255), (9, 9, 9, 0), (0, 0, 200, 128), (0, 0, 0, 1)),
    ),
    "alpha.webp": (
        lambda: encoded(quarters("RGBA"), "WEBP", lossless=True, exact=True),
        over_white((255, 0, 0, 255), (9, 9, 9, 0), (0, 0, 200, 128), (0, 0, 0, 1)),
    ),
    "one_bit.png": (lambda: encoded(quarters("1")), shown(0, WHITE, WHITE, 0)),
    "grey_16.png": (lambda: deep_png(0, (0, 0x12FF, 0x8000, 65535)), GREYS),
    "grey_16.tif": (lambda: tiff(*DEEP_TIFF, data=ROWS_16), GREYS),
    "grey_16_negative.tif": (lambda: tiff(*NEGATIVE, data=ROWS_16), 255 - GREYS),
    "colour_16.png": (
        lambda: deep_png(2, 4 * (0x12FF, 0x5678, 0x9ABC)),
        np.full((4, 4, 3), np.array([0x12FF, 0x5678, 0x9ABC]) / 257),
    ),
    "grey_alpha_16.png": (lambda: deep_png(4, 4 * (0x8000, 0)), np.full((4, 4, 3), WHITE)),
    "animated.gif": (lambda: animation("GIF"), RED),
    "animated.png": (lambda: animation("PNG"), RED),
    "animated.webp": (lambda: animation("WEBP", lossless=True), RED),
    "pages.tif": (lambda: animation("TIFF"), RED),
    "two_pictures.jpg": (lambda: animation("MPO", quality=100, subsampling=0), RED),
    "jpeg_named_as.png": (lambda: encoded(quarters(), "JPEG", quality=100, subsampling=0), RGB),
    "garbage_behind.png": (lambda: GOOD + os.urandom(100_000), RGB),
    "thin.png": (lambda: encoded(PIL.Image.new("RGB", (796, 4), "red")), np.full((4, 796, 3), (255, 0, 0))),
    "large_alpha.png": (  # 49 million pixels of half clear black
        lambda: flat_png(SIDE, SIDE, 8, 6, b"\0" + b"\0\0\0\x80" * SIDE),
        np.broadcast_to(127.0, (SIDE, SIDE, 3)),
    ),
    "large_turned.jpg": (
        lambda: encoded(PIL.Image.new("RGB", (SIDE, SIDE - 8), (200, 200, 200)), "JPEG", exif=exif(6)),
        np.broadcast_to(200.0, (SIDE, SIDE - 8, 3)),
    ),
}

BAD = {  # file -> (how it is made, its cause)
    "header_of_10_gigapixels.png": (lambda: png(100_000, 100_000, 8, 2, b""), "size"),
    "bomb.png": (lambda: flat_png(22_000, 22_000, 1, 0, bytes(2751)), "size"),  # 484 million real pixels in 60 kB
    "header_of_4_gigapixels.gif": (lambda: b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x02\0;", "size"),
    "frame_beyond_its_screen.gif": (lambda: b"GIF89a\x08\0\x08\0\0\0\0,\0\0\0\0\xff\x7f\xff\x7f\0\x02\0;", "size"),
    "header_of_3_gigapixels.bmp": (
        lambda: (bmp := encoded(quarters(), "BMP"))[:18] + struct.pack("<ii", 60_000, 50_000) + bmp[26:], "size"
    ),
    "sliver.png": (lambda: png(4, 800, 8, 2, b""), "size"),
    "three_rows.png": (lambda: encoded(PIL.Image.new("RGB", (9, 3))), "size"),
    "one_pixel.gif": (lambda: encoded(PIL.Image.new("L", (1, 1)), "GIF"), "size"),
    "long.png": (lambda: flat_png(30_001, 151, 1, 0, bytes(3752)), "size"),
    "no_width.png": (lambda: png(0, 9, 8, 2, b""), None),
    "large_progressive.jpg": (lambda: claiming_sides(encoded(quarters(), "JPEG", progressive=True)), "size"),
    "large.webp": (
        lambda: (webp := encoded(quarters(), "WEBP"))[:26] + struct.pack("<HH", 5_000, 5_000) + webp[30:], "size"
    ),
    "float.tif": (lambda: encoded(PIL.Image.new("F", (9, 9)), "TIFF"), "depth"),
    "int32.tif": (lambda: encoded(PIL.Image.new("I", (9, 9)), "TIFF"), "depth"),
    "truncated.png": (lambda: GOOD[: len(GOOD) // 2], "damage"),
    "truncated.jpg": (lambda: encoded(quarters(), "JPEG")[:-60], "damage"),
    "truncated.gif": (lambda: encoded(quarters("P"), "GIF")[:-30], "damage"),
    "truncated.webp": (lambda: encoded(quarters(), "WEBP")[:-9], "damage"),
    "truncated.tif": (lambda: encoded(quarters(), "TIFF")[:-200], "damage"),
    "truncated.bmp": (lambda: encoded(quarters(), "BMP")[:-99], "damage"),
    "truncated.ppm": (lambda: encoded(quarters(), "PPM")[:-99], "damage"),
    "pixels_spoilt.png": (lambda: png(8, 8, 8, 2, b"x" * 99), "damage"),
    "text_bomb.png": (
        lambda: png(8, 8, 8, 0, zlib.compress(bytes(72)), (b"zTXt", b"a\0\0" + zlib.compress(bytes(300_000_000), 1))),
        None,
    ),
    "header_alone.jpg": (lambda: encoded(quarters(), "JPEG")[:200], None),
    "empty.png": (lambda: b"", "format"),
    "text.jpg": (lambda: b"no picture", "format"),
    "page_of_an_error.jpg": (lambda: b"<!DOCTYPE html><html>404 Not Found</html>", "format"),
    "drawing.svg": (lambda: b'<svg xmlns="http://www.w3.org/2000/svg"></svg>', "format"),
    "program.eps": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "format"),
    "document.pdf": (lambda: b"%PDF-1.4\n", "format"),
    "icon.ico": (lambda: encoded(quarters(), "ICO", sizes=[(16, 16)]), "format"),
    "layers.psd": (lambda: b"8BPS\0\1\0\0\0\0\0\0\0\3\0\0\0\x08\0\0\0\x08\0\x08\0\3" + bytes(12), "format"),
    "looped_directory.tif": (lambda: b"II*\0\x08\0\0\0\0\0\x08\0\0\0", None),
    "wavelets.jp2": (lambda: encoded(quarters(), "JPEG2000"), "format"),  # cut, it would pass as a blurred picture
}  # fmt: skip

CHILD = """
import json, os, sys
import numpy as np
from arft_jax.data import images

def mb(key):
    with open("/proc/self/status") as f:
        return int(next(line for line in f if line.startswith(key)).split()[1]) / 1000

images.readable_formats()  # Pillow's plugins are part of the base
base, causes, quarantine = mb("VmRSS"), {}, images.Quarantine()
for name in sorted(os.listdir(".")):
    before = quarantine.counts.copy()
    image = images.decode_image(name, on_bad="replace", quarantine=quarantine)
    new = quarantine.counts - before
    causes[name] = next(iter(new), None)
    if not new:
        row = np.unique(image.pixels.reshape(-1, 3)[:: 1 << 14], axis=0).tolist() if image.pixels.size > 1e6 else None
        causes[name] = {"size": image.size, "colours": row}
        if row is None:
            np.save(name + ".npy", image.pixels)
    del image
print(json.dumps({"peak_mb": mb("VmHWM") - base, "results": causes, "n": quarantine.n_images}))
"""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory, repo_root):
    """Every file once through the door, in one fresh process."""
    folder = tmp_path_factory.mktemp("bad")
    for name, (make, _) in {**RIGHT, **BAD}.items():
        (folder / name).write_bytes(make())
    done = subprocess.run(
        [sys.executable, "-c", CHILD], cwd=folder, env={**os.environ, "PYTHONPATH": str(repo_root)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


def test_no_file_crashes_and_the_peak_stays_bounded(outcome):
    _, result = outcome
    assert len(result["results"]) == len(RIGHT) + len(BAD) >= 40
    print(f"{len(result['results'])} files, {result['n']} quarantined, peak {result['peak_mb']:.0f} MB above the base")
    assert result["peak_mb"] <= PEAK_MB


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_cannot_be_right_is_quarantined_with_its_cause(outcome, name):
    cause = outcome[1]["results"][name]
    assert cause in images.CAUSES and BAD[name][1] in (cause, None)


@pytest.mark.parametrize("name", RIGHT)
def test_an_odd_file_is_right_to_one_grey_level(outcome, name):
    folder, result = outcome
    expected, found = RIGHT[name][1], result["results"][name]
    assert isinstance(found, dict), found
    assert tuple(found["size"]) == expected.shape[:2]
    if found["colours"] is not None:
        assert np.abs(np.array(found["colours"]) - expected[0, 0]).max() <= 1
    else:
        assert np.abs(np.load(folder / f"{name}.npy") - expected).max() <= 1


@pytest.mark.parametrize("name", ["large_progressive.jpg", "large.webp"])
def test_what_would_need_too_much_memory_is_refused_by_kind(name):
    with pytest.raises(images.BadImage, match=r"^a (JPEG|WEBP) image of this kind must hold at most \d+ pixels: got"):
        decode_image(BAD[name][0]())


def test_a_decode_of_every_kind_that_the_header_lets_through_stays_below_its_estimate():
    """The estimate a pixel, times the largest picture that passes, is within the budget."""
    per_pixel = [*images._PEAK_BYTES.values(), *images._PEAK_BYTES_PROGRESSIVE.values()]
    assert images._PEAK_BYTES_OTHER * images.MAX_DECODE_PIXELS <= images.MAX_DECODE_BYTES <= PEAK_MB * 1e6
    assert min(per_pixel) >= 5


@pytest.mark.parametrize(
    ("fmt", "options"),
    [
        ("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("GIF", {}), ("WEBP", {}), ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}), ("BMP", {}), ("PPM", {}),
    ],
)  # fmt: skip
def test_a_file_cut_anywhere_is_refused_or_whole(fmt, options):
    """Never a picture whose lower half the decoder made up."""
    noise = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    whole = encoded(PIL.Image.fromarray(noise), fmt, **options)
    expected, n_refused = decode_image(whole).sha256, 0
    for n_bytes in range(0, len(whole), 7):
        try:
            assert decode_image(whole[:n_bytes]).sha256 == expected, n_bytes
        except images.BadImage:
            n_refused += 1
    assert n_refused > 0.9 * len(whole) / 7


# ---------------------------------------------------------------------------------------------- quarantine


def test_a_bad_image_is_replaced_by_the_same_stand_in_and_counted():
    quarantine = images.Quarantine(max_messages=2)
    bad = [b"text", GOOD[:90], png(9_000, 9_000, 8, 2, b""), png(2, 2, 8, 2, b"")]
    made = [decode_image(data, f"image_{i}", on_bad="replace", quarantine=quarantine) for i, data in enumerate(bad)]
    assert {image.sha256 for image in made} == {images.stand_in().sha256}
    assert [image.name for image in made] == ["image_0", "image_1", "image_2", "image_3"]
    assert quarantine.counts == {"format": 1, "damage": 1, "size": 2} and quarantine.n_images == 4
    assert len(quarantine.messages) == 2 and "image_0" in quarantine.messages[0]
    good = decode_image(GOOD, on_bad="replace", quarantine=quarantine)
    assert good.sha256 == decode_image(GOOD).sha256 and quarantine.n_images == 4


def test_a_wrong_path_is_no_bad_image(tmp_path):
    """A wrong folder must not turn a whole data set grey."""
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for ever
    for path in (tmp_path / "nothing.png", tmp_path, tmp_path / "pipe.png", "nul\0.png"):
        quarantine = images.Quarantine()
        with pytest.raises(ValueError, match="image (file must exist|must be readable): got") as caught:
            decode_image(path, on_bad="replace", quarantine=quarantine)
        assert not isinstance(caught.value, images.BadImage) and quarantine.n_images == 0


def test_a_files_name_cannot_write_to_the_terminal(tmp_path):
    for name in ("a\x1b[31m\nb.png", "a\u202egnp.b", "a\ud83d.png"):
        with pytest.raises(ValueError) as caught:
            decode_image(str(tmp_path / name))
        assert str(caught.value).isprintable() and "?" in str(caught.value)


def test_replacing_without_a_count_is_refused():
    for options in ({"on_bad": "replace"}, {"on_bad": "skip", "quarantine": images.Quarantine()}):
        with pytest.raises(ValueError, match="on_bad must be raise, or replace with a quarantine"):
            decode_image(b"", **options)


def test_a_file_beyond_the_byte_limit_is_not_opened(tmp_path):
    path = tmp_path / "sparse.png"
    with open(path, "wb") as f:
        f.truncate(images.MAX_FILE_BYTES + 1)
    with pytest.raises(images.BadImage, match=r"at most 160000000 bytes: got 160000001 in .*sparse\.png"):
        decode_image(path)
