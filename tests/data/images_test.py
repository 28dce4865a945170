import io
import struct
import time
import zlib

import numpy as np
import PIL.Image
import pytest

from arft_jax.data import images
from arft_jax.data.images import ImageProcessor, decode_image, encode_png
from arft_jax.trajectory import Image

TINY = [(1, 1), (1, 200), (200, 1), (13, 15), (10, 20), (27, 29)]
ODD = [(84, 84), (168, 168), (30, 200), (61, 97), (500, 333), (56, 28), (1003, 1007)]
THIN = [(7, 1393), (1400, 7), (28, 5600), (3000, 16)]  # aspect up to 200
LARGE = [(3000, 4000)]
PUBLISHED = (56 * 56, 28 * 28 * 1280)  # the defaults of Qwen2-VL's image processor
BOUNDS = [PUBLISHED, (4 * 28 * 28, 16384 * 28 * 28), (7056, 7056), (3136, 20000), (28 * 28, 28 * 28)]


def noise_image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def reference(min_pixels, max_pixels):
    module = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    return module.Qwen2VLImageProcessorPil(min_pixels=min_pixels, max_pixels=max_pixels)


def assert_same(theirs, ours, pixels):
    expected = theirs(images=[pixels], input_data_format="channels_last")
    patches, grid = ours(pixels)
    assert patches.dtype == expected["pixel_values"].dtype == np.float32
    np.testing.assert_array_equal(patches, expected["pixel_values"])
    assert grid == tuple(expected["image_grid_thw"][0])


@pytest.mark.parametrize("bounds", BOUNDS, ids=str)
def test_patches_equal_those_of_transformers_bit_for_bit(bounds):
    theirs, ours = reference(*bounds), ImageProcessor(*bounds)
    for size in [*TINY, *ODD, *THIN]:
        assert_same(theirs, ours, noise_image(*size))


@pytest.mark.parametrize("size", LARGE, ids=str)
def test_a_large_picture_equals_that_of_transformers_bit_for_bit(size):
    assert_same(reference(*PUBLISHED), ImageProcessor(*PUBLISHED), noise_image(*size))


def test_every_colour_value_is_normalised_as_in_transformers():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16).repeat(7, axis=0).repeat(7, axis=1)  # 112 x 112, no resize
    pixels = np.stack([ramp, ramp[::-1], ramp.T], axis=-1)
    assert_same(reference(3136, 112 * 112), ImageProcessor(3136, 112 * 112), pixels)


def test_sizes_equal_those_of_transformers_for_any_side():
    module = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    rng = np.random.default_rng(0)
    for low, high in BOUNDS:
        for height, width in np.exp(rng.uniform(0, np.log(20_000), (400, 2))).astype(int).tolist():
            if max(height, width) <= 200 * min(height, width):
                theirs = module.smart_resize(height, width, 28, low, high)
                assert images.smart_resize(height, width, 28, low, high) == theirs
            else:
                with pytest.raises(ValueError, match="aspect ratio up to 200"):
                    images.smart_resize(height, width, 28, low, high)


def test_defaults_are_the_published_bounds():
    theirs = reference(None, None).size
    ours = ImageProcessor()
    assert (ours.min_pixels, ours.max_pixels) == PUBLISHED == (theirs["shortest_edge"], theirs["longest_edge"])


@pytest.mark.slow
def test_processing_costs_no_more_than_in_transformers():
    for size, bounds in [((448, 448), PUBLISHED), ((1000, 1000), PUBLISHED), ((1792, 1792), (3136, 1792**2))]:
        theirs, ours, pixels = reference(*bounds), ImageProcessor(*bounds), noise_image(*size)
        times = []
        for _ in range(7):  # in turn, so that a busy machine is busy for both
            start = time.perf_counter()
            ours(pixels)
            between = time.perf_counter()
            theirs(images=[pixels], input_data_format="channels_last")
            times.append((between - start, time.perf_counter() - between))
        mine, their = np.min(times, axis=0) * 1e9 / (size[0] * size[1])
        print(f"{size[0]}x{size[1]}: {mine:.1f} ms a megapixel, transformers {their:.1f}")
        assert mine < 1.1 * their


def test_grid_is_known_without_pixels_and_tokens_are_a_quarter_of_the_patches():
    processor = ImageProcessor(7056, 7056)
    for size in ODD:
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


# ------------------------------------------------------------------------------------------ decoding


def encoded(picture, fmt="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, format=fmt, **options)
    return buffer.getvalue()


def png_of(width, height, depth, colour_type, rows, transparent=b""):
    """A PNG written by hand, for what Pillow reads but does not write (16-bit colour)."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0))
    keys = chunk(b"tRNS", transparent) if transparent else b""
    return b"\x89PNG\r\n\x1a\n" + header + keys + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def png16(colour_type, values, transparent=b""):
    """Four equal rows of 16-bit pixels; ``values`` are those of one row."""
    width = len(values) // {0: 1, 2: 3, 4: 2}[colour_type]
    return png_of(width, 4, 16, colour_type, 4 * (b"\0" + struct.pack(f">{len(values)}H", *values)), transparent)


def picture(mode):
    """12 x 10 pixels of every value that a mode has, alpha and palette included."""
    rng = np.random.default_rng(3)
    n_bands = len(PIL.Image.new(mode, (1, 1)).getbands())
    if mode == "1":
        return PIL.Image.fromarray(rng.integers(0, 2, (10, 12)).astype(bool))
    drawn = rng.integers(0, 256, (10, 12, n_bands), dtype=np.uint8)
    made = PIL.Image.frombytes(mode, (12, 10), drawn.tobytes())
    if mode == "P":
        made.putpalette(rng.integers(0, 256, 768, dtype=np.uint8).tobytes())
    return made


FILES = {
    "RGB": lambda: encoded(picture("RGB")),
    "grey": lambda: encoded(picture("L")),
    "grey and alpha": lambda: encoded(picture("LA")),
    "one transparent grey": lambda: encoded(picture("L"), transparency=7),
    "alpha": lambda: encoded(picture("RGBA")),
    "one transparent colour": lambda: encoded(picture("RGB"), transparency=(1, 2, 3)),
    "palette": lambda: encoded(picture("P")),
    "palette with one transparent entry": lambda: encoded(picture("P"), transparency=5),
    "palette with alpha": lambda: encoded(picture("P"), transparency=bytes(range(256))),
    "one bit": lambda: encoded(picture("1")),
    "CMYK, JPEG": lambda: encoded(picture("CMYK"), "JPEG"),
    "CMYK, TIFF": lambda: encoded(picture("CMYK"), "TIFF"),
    "GIF": lambda: encoded(picture("P"), "GIF"),
    "WebP with alpha": lambda: encoded(picture("RGBA"), "WEBP", lossless=True, exact=True),
    "16-bit colour": lambda: png16(2, 2 * (0x12FF, 0x5678, 0x9ABC, 65535, 0, 0x80)),
    "16-bit grey and alpha": lambda: png16(4, 2 * (0x8000, 65535, 0x8000, 0)),
}


@pytest.mark.parametrize("kind", FILES)
def test_colours_are_those_of_transformers(kind):
    transforms = pytest.importorskip("transformers.image_transforms")
    data = FILES[kind]()
    image = decode_image(data)
    theirs = transforms.convert_to_rgb(PIL.Image.open(io.BytesIO(data)), return_numpy=True)
    assert image.pixels.dtype == np.uint8 and image.pixels.shape == theirs.shape
    np.testing.assert_array_equal(image.pixels, theirs)
    assert image.sha256 == decode_image(data).sha256


def test_files_and_transformers_processor_give_the_same_patches():
    theirs, ours = reference(*PUBLISHED), ImageProcessor(*PUBLISHED)
    for kind, make in FILES.items():
        expected = theirs(images=[PIL.Image.open(io.BytesIO(make()))])["pixel_values"]
        np.testing.assert_array_equal(ours(decode_image(make()).pixels)[0], expected, err_msg=kind)


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_decode_stands_the_picture_upright_by_its_exif(orientation, fmt):
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :16], upright[:8, 16:], upright[8:, :16] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    undo = {
        1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud,
        5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).swapaxes(0, 1), 8: lambda a: np.rot90(a, -1),
    }  # fmt: skip
    stored = PIL.Image.fromarray(np.ascontiguousarray(undo[orientation](upright)))
    exif = stored.getexif()
    exif[0x0112] = orientation
    pixels = decode_image(encoded(stored, fmt, exif=exif), "x").pixels
    assert pixels.shape == upright.shape
    assert np.array_equal(pixels > 127, upright > 127)  # JPEG and WebP are near, not equal


def test_damaged_metadata_costs_no_picture():
    red = PIL.Image.new("RGB", (8, 6), "red")
    cut = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01"  # five entries are promised, half of one is there
    assert decode_image(encoded(red, "JPEG", exif=cut)).sha256 == decode_image(encoded(red, "JPEG")).sha256


def first_row(data):
    return decode_image(data).pixels[0, :, 0].tolist()


def test_16_bit_grey_keeps_its_high_byte():
    values = [0, 0x12FF, 0x8000, 65535]
    grey = [0, 0x12, 0x80, 255]
    assert first_row(png16(0, values)) == grey
    array = PIL.Image.fromarray(np.array([values] * 4, np.uint16))
    for fmt in ("TIFF", "PPM"):
        assert first_row(encoded(array, fmt)) == grey
    assert first_row(png16(0, values, transparent=struct.pack(">H", 0x12FF))) == [0, 255, 128, 255]
    exif = array.getexif()
    exif[0x0112] = 3
    assert first_row(encoded(array, exif=exif)) == grey[::-1]


def tiff_of(values, bits, photometric=1):
    """Grey TIFF of four equal rows of four values, for what Pillow reads but does not write."""
    row = struct.pack("<4H", *values)
    if bits == 12:  # two values in three bytes, the high bits first
        a, b, c, d = values
        row = bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255, c >> 4, (c & 15) << 4 | d >> 8, d & 255])
    tags = [
        (256, 4), (257, 4), (258, bits), (259, 1), (262, photometric), (273, 8 + 2 + 9 * 12 + 4), (277, 1), (278, 4),
        (279, 4 * len(row)),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + b"\0\0\0\0" + 4 * row


def test_grey_of_12_bits_and_grey_of_which_0_is_white_are_scaled_to_their_own_white():
    assert first_row(tiff_of([0, 0x12FF, 0x8000, 65535], 16)) == [0, 0x12, 0x80, 255]
    assert first_row(tiff_of([0, 0x12F, 0x800, 0xFFF], 12)) == [0, 0x12, 0x80, 255]
    assert first_row(tiff_of([0, 0x12FF, 0x8000, 65535], 16, photometric=0)) == [255, 255 - 0x12, 127, 0]
    assert first_row(b"P2 4 4 1023 " + b"0 292 512 1023 " * 4) == [0, 73, 128, 255]  # PGM whose white is 1023


def test_of_an_animation_the_first_frame_is_taken():
    frames = [PIL.Image.new("RGB", (6, 4), colour) for colour in ("red", "lime", "blue")]
    for fmt in ("GIF", "PNG", "WEBP", "TIFF"):
        options = {"lossless": True} if fmt == "WEBP" else {}
        data = encoded(frames[0], fmt, save_all=True, append_images=frames[1:], **options)
        assert PIL.Image.open(io.BytesIO(data)).n_frames == 3
        assert (decode_image(data).pixels == (255, 0, 0)).all()


def test_transparency_becomes_white_and_half_of_it_half_white():
    for alpha, expected in ((0, 255), (255, 0), (128, 127)):
        assert (decode_image(encoded(PIL.Image.new("RGBA", (4, 4), (0, 0, 0, alpha)))).pixels == expected).all()


@pytest.mark.parametrize("mode", ["F", "I"])
def test_channels_without_a_known_white_are_refused(mode):
    with pytest.raises(ValueError, match=rf"at most 16 bits a channel: got Pillow mode {mode} in scan"):
        decode_image(encoded(PIL.Image.new(mode, (4, 4)), "TIFF"), "scan")


def test_png_round_trips():
    image = Image(noise_image(13, 17), "a")
    assert decode_image(encode_png(image), "a").sha256 == image.sha256


def test_missing_or_broken_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"must exist.*nothing\.png"):
        decode_image(tmp_path / "nothing.png")
    whole = encode_png(Image(noise_image(50, 50)))
    for n_bytes in (0, 8, 40, 800, len(whole) // 2):
        broken = tmp_path / "broken.png"
        broken.write_bytes(whole[:n_bytes])
        with pytest.raises(ValueError, match=r"must be readable.*broken\.png"):
            decode_image(broken)
    with pytest.raises(ValueError, match=r"must be readable: got cut \(OSError: image file is truncated"):
        decode_image(encoded(picture("RGB").resize((200, 200)), "JPEG")[:2000], "cut")
    text = tmp_path / "text.png"
    text.write_text("no picture")
    with pytest.raises(ValueError, match=r"must be readable.*text\.png"):
        decode_image(text)
    with pytest.raises(ValueError, match=r"got <bytes> \(no image format that is read here\)$"):
        decode_image(b"no picture")
    with pytest.raises(ValueError, match="must be readable"):
        decode_image(tmp_path)


def test_damage_is_refused_or_decoded_and_never_anything_else():
    rng = np.random.default_rng(0)
    PIL.Image.init()
    for fmt in {"JPEG", "PNG", "WEBP", "TIFF", "GIF", "AVIF"} & set(PIL.Image.SAVE):
        whole = encoded(PIL.Image.fromarray(noise_image(20, 24)), fmt)
        for _ in range(60):
            damaged = bytearray(whole)
            for at in rng.integers(0, min(len(whole), 300), 3):
                damaged[at] = rng.integers(0, 256)
            try:
                assert decode_image(bytes(damaged)).pixels.dtype == np.uint8
            except ValueError as error:
                assert str(error).startswith(("image must be readable: got <bytes>", "an image must "))


def test_the_header_is_checked_before_pixels_are_decoded(monkeypatch):
    monkeypatch.setattr(images, "MAX_DECODE_PIXELS", 99)
    with pytest.raises(ValueError, match=r"at most 99 pixels: got 10x10 in shot"):
        decode_image(encode_png(Image(noise_image(10, 10))), "shot")


def test_a_picture_of_a_billion_pixels_is_refused_by_its_header():
    with pytest.raises(ValueError, match="at most 50000000 pixels: got many more in bomb"):
        decode_image(png_of(100_000, 100_000, 8, 2, b""), "bomb")
    with pytest.raises(ValueError, match="at most 50000000 pixels: got 8000x7000 in bomb"):
        decode_image(png_of(7_000, 8_000, 8, 2, b""), "bomb")


def test_sides_and_aspect_are_checked_in_the_header_and_for_pixels_that_come_without_one():
    for width, height, rule in [
        (3, 50, "sides of 4 to 30000 px"), (50, 3, "sides of 4"), (1, 1, "sides of 4"), (30_001, 200, "to 30000 px"),
        (4, 800, "ratio below 200"), (800, 4, "ratio below 200"), (7_001, 7_200, "at most 50000000 pixels"),
    ]:  # fmt: skip
        with pytest.raises(images.BadImage, match=rf"{rule}.*: got {height}x{width} in strip") as caught:
            decode_image(png_of(width, height, 8, 2, b""), "strip")
        assert caught.value.cause == "size"
        with pytest.raises(images.BadImage, match=rule):
            images.check_size(height, width)
    for width, height in [(4, 4), (4, 799), (799, 4), (30_000, 151)]:
        images.check_size(height, width)
    decode_image(encoded(PIL.Image.new("RGB", (30_000, 151))))
    image = decode_image(encoded(PIL.Image.new("RGB", (799, 4), "red")))
    assert image.size == (4, 799) and ImageProcessor().grid_of(*image.size)[1] >= 2


def test_a_tools_own_bound_on_pixels_is_kept():
    data = encoded(PIL.Image.new("RGB", (10, 12)))
    assert decode_image(data, max_pixels=120).size == (12, 10)
    with pytest.raises(images.BadImage, match=r"at most 119 pixels: got 12x10 in made"):
        decode_image(data, "made", max_pixels=119)


def test_the_smallest_picture_is_four_tokens_at_the_published_bounds():
    image = decode_image(encoded(PIL.Image.new("RGB", (4, 4), "red")))
    assert image.size == (4, 4) and ImageProcessor().grid_of(*image.size) == (1, 4, 4)


def test_strips_join_without_a_seam(monkeypatch):
    """Whole and strip by strip, every mode and orientation: the same pixels."""
    exif = PIL.Image.Exif()
    exif[0x0112] = 8
    files = [make() for make in FILES.values()] + [
        encoded(picture("RGB"), exif=exif),
        encoded(picture("LA"), exif=exif),
    ]
    whole = [decode_image(data).sha256 for data in files]
    monkeypatch.setattr(images, "STRIP_PX", 36)  # three rows of twelve, and a last one of one
    assert [decode_image(data).sha256 for data in files] == whole


def test_what_is_decoded_carries_no_metadata_and_decodes_to_itself():
    exif = PIL.Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a secret place"
    data = encoded(PIL.Image.fromarray(noise_image(12, 20)), exif=exif)
    image = decode_image(data, "a")
    assert image.size == (20, 12) and b"secret" in data and b"secret" not in encode_png(image)
    assert image.pixels.flags.c_contiguous and image.pixels.flags.owndata
    assert decode_image(encode_png(image)).sha256 == image.sha256


def test_the_resized_size_is_that_of_the_patches():
    processor = ImageProcessor(7056, 50_000)
    for size in ODD:
        _, (_, h, w) = processor(noise_image(*size))
        assert processor.resized_size(*size) == (14 * h, 14 * w)
