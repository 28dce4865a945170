"""Images in and out of the model: the one door for image files, and Qwen2-VL's resize, normalise and patchify.

The arithmetic is that of transformers ``Qwen2VLImageProcessorPil`` (bit for bit, by test), written over one table of
3 x 256 float32 values, because after an 8-bit resize every pixel value is one of 256. It took 15 to 39 ms a megapixel
where that class took 42 to 59 (2026-11-26, one busy Xeon; ``pytest -m slow -s tests/data/images_test.py -k costs``).

Every image, of a data set or of a tool, passes :func:`decode_image` (files) or :func:`check_size` (pixels). What comes
out is upright 8-bit RGB without metadata, so that the model, Pillow and OpenCV see the same pixels.
"""

import collections
import dataclasses
import functools
import io
import math
import os
import warnings

import numpy as np
import PIL.Image

from arft_jax.data import jpeg
from arft_jax.data.open_file import open_regular
from arft_jax.trajectory import Image

MAX_DECODE_PIXELS = 50_000_000
MIN_SIDE_PX, MAX_SIDE_PX = 4, 30_000
MAX_ASPECT = 200
MAX_FILE_BYTES = 160_000_000  # 50 million uncompressed RGB pixels and their header
MAX_DECODE_BYTES = 370_000_000  # what decoding one image may take, its result included
MAX_SCANS = 100  # of a JPEG, as libtiff has it; encoders write 10 or so, and each goes over all pixels
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF", "PPM", "AVIF")
CAUSES = ("size", "format", "depth", "damage")
BACKGROUND = (255, 255, 255)  # what shows through transparency
STAND_IN_PX, STAND_IN_GREY = 112, 128
TEMPORAL_PATCH = 2  # a still image fills both frames of a temporal patch
MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's, RGB
STD = (0.26862954, 0.26130258, 0.27577711)

STRIP_PX = 1 << 20  # converted at a time
_ORIENTATION = 0x0112  # EXIF
_BITS, _PHOTOMETRIC = 258, 262  # TIFF tags
# Bytes a pixel at the peak, measured with Pillow 13 at 49 million pixels; other decoders need 4 beside the result's 3.
_PEAK_BYTES = {"WEBP": 17, "AVIF": 10}
_PEAK_BYTES_PROGRESSIVE = {"L": 5, "RGB": 11, "CMYK": 13}  # libjpeg keeps all coefficients
_PEAK_BYTES_TURNED_TIFF = 9
_PEAK_BYTES_OTHER = 7
# A view of upright pixels that lies as the file stores them, by EXIF orientation.
_AS_STORED = {
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: upright.swapaxes(0, 1)[::-1],
    7: lambda upright: upright.swapaxes(0, 1)[::-1, ::-1],
    8: lambda upright: upright.swapaxes(0, 1)[:, ::-1],
}


class BadImage(ValueError):
    """An image that the door refuses.

    Args:
      message: one sentence.
      cause: one of CAUSES: pixels, sides or bytes; no format that is read here; more than 16 bits a channel or floats;
        truncated or inconsistent.
    """

    def __init__(self, message: str, cause: str):
        super().__init__(message)
        self.cause = cause


@dataclasses.dataclass
class Quarantine:
    """Counts the images that a stand-in replaced, and remembers the first of them by their messages."""

    counts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    messages: list[str] = dataclasses.field(default_factory=list)
    max_messages: int = 20

    @property
    def n_images(self) -> int:
        return self.counts.total()

    def add(self, error: BadImage) -> None:
        self.counts[error.cause] += 1
        if len(self.messages) < self.max_messages:
            self.messages.append(str(error))


def stand_in(name: str = "") -> Image:
    """What takes the place of a bad image: a uniform grey square of 112 x 112, the same every time."""
    return Image(np.full((STAND_IN_PX, STAND_IN_PX, 3), STAND_IN_GREY, np.uint8), name)


def check_size(height: int, width: int, label: str = "", max_pixels: int | None = None) -> None:
    """Refuses sizes that the door does not let through.

    Args:
      height, width: pixels.
      label: what the message calls the image.
      max_pixels: inclusive, in place of the 50 million.

    Raises:
      BadImage: a side below 4 or above 30,000 px, more than 50 million pixels, or an aspect ratio of 200 and more.
    """
    got = f"got {height}x{width}" + (f" in {label}" if label else "")
    if min(height, width) < MIN_SIDE_PX or max(height, width) > MAX_SIDE_PX:
        raise BadImage(f"an image must have sides of {MIN_SIDE_PX} to {MAX_SIDE_PX} px: {got}", "size")
    max_pixels = MAX_DECODE_PIXELS if max_pixels is None else max_pixels
    if width * height > max_pixels:
        raise BadImage(f"an image must hold at most {max_pixels} pixels: {got}", "size")
    if max(height, width) >= MAX_ASPECT * min(height, width):
        raise BadImage(f"an image must have an aspect ratio below {MAX_ASPECT}: {got}", "size")


def decode_image(
    data: bytes | str | os.PathLike,
    name: str = "",
    *,
    on_bad: str = "raise",
    quarantine: Quarantine | None = None,
    max_pixels: int | None = None,
    links: bool = True,
) -> Image:
    """Decodes an image file to RGB, upright by its EXIF orientation, transparency over white.

    The header is checked before any pixel is decoded, and decoding takes at most 370 MB; of an animation the first
    frame is taken; colour profiles and all other metadata are dropped. Colours are those of transformers'
    ``convert_to_rgb`` with two departures:

    1. 16-bit grey keeps the high byte, as Pillow does for 16-bit colour; transformers clips at 255, which turns
       almost all of such a picture white.
    2. 32-bit integers and floats are refused: nothing in the file says which value is white.

    Args:
      data: encoded bytes, or the path of a regular file.
      name: how the trajectory refers to it; for bytes it also names the image in errors.
      on_bad: ``raise``, or ``replace`` for a data set of millions, in which a few are always broken: :func:`stand_in`
        takes the place of a bad image. A file that cannot be opened is a wrong path, not a bad image, and raises.
      quarantine: counts what was replaced; needed with ``replace``.
      max_pixels: a tighter bound than 50 million, for what a tool wrote.
      links: False: a path that was resolved when it was checked; a link in it by now is refused.

    Raises:
      BadImage: (a ValueError) no image of a known format, damaged, or beyond a limit of the door.
      ValueError: the file cannot be opened; a wrong ``on_bad``.
    """
    if on_bad not in ("raise", "replace") or (on_bad == "replace" and quarantine is None):
        raise ValueError(f"on_bad must be raise, or replace with a quarantine: got {on_bad!r}, {quarantine}")
    is_bytes = isinstance(data, bytes)
    path = None if is_bytes else os.fspath(data)
    label = _printable((name or "<bytes>") if is_bytes else path)
    try:
        with io.BytesIO(data) if is_bytes else open_regular(path, label, links) as file:
            n_bytes = len(data) if is_bytes else os.fstat(file.fileno()).st_size
            if n_bytes > MAX_FILE_BYTES:
                sentence = f"an image file must hold at most {MAX_FILE_BYTES} bytes: got {n_bytes} in {label}"
                raise BadImage(sentence, "size")
            return Image(_decode(file, label, max_pixels), name)
    except BadImage as error:
        if on_bad == "raise":
            raise
        quarantine.add(error)
        return stand_in(name)


def _printable(name: str) -> str:
    """A file's name as it may stand in a log: control, bidi and zero-width characters become question marks."""
    return "".join(char if char.isprintable() else "?" for char in name)


def _decode(source, label: str, max_pixels: int | None) -> np.ndarray:
    """uint8[height, width, 3], or BadImage."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on large pictures and odd metadata
            with PIL.Image.open(source, formats=readable_formats()) as opened:
                _check_header(opened, label, max_pixels)
                return _upright_rgb(opened, label)
    except BadImage:
        raise
    except PIL.UnidentifiedImageError:
        reason = f"image must be readable: got {label} (no image format that is read here)"
        raise BadImage(reason, "format") from None
    except PIL.Image.DecompressionBombError:  # Pillow's own limit, far above ours
        reason = f"an image must hold at most {MAX_DECODE_PIXELS} pixels: got many more in {label}"
        raise BadImage(reason, "size") from None
    except Exception as error:  # damaged files make the decoders raise nearly anything
        reason = f"image must be readable: got {label} ({type(error).__name__}: {error})"
        raise BadImage(reason, "damage") from error


@functools.cache
def readable_formats() -> list[str]:
    """Those of the formats that this Pillow was built with: asking it for another is an error."""
    PIL.Image.init()
    return [name for name in FORMATS if name in PIL.Image.OPEN]


def _check_scans(opened: PIL.Image.Image, label: str) -> None:
    """Refuses a JPEG that a decoder would go over again and again: a small file can hold a hundred thousand scans."""
    at = opened.fp.tell()
    opened.fp.seek(0)
    n = jpeg.n_scans(opened.fp.read())
    opened.fp.seek(at)
    if n > MAX_SCANS:
        raise BadImage(f"a JPEG image must hold at most {MAX_SCANS} scans: got {n} in {label}", "size")


def _check_header(opened: PIL.Image.Image, label: str, max_pixels: int | None) -> None:
    width, height = opened.size
    check_size(height, width, label, max_pixels)
    # Mode I is 16-bit grey too, but only where the format has no more (PPM; PNG in older versions of Pillow).
    if opened.mode == "F" or (opened.mode == "I" and opened.format not in ("PNG", "PPM")):
        raise BadImage(
            f"an image must have at most 16 bits a channel: got Pillow mode {opened.mode} in {label}", "depth"
        )
    if opened.format in ("JPEG", "MPO"):
        _check_scans(opened, label)
    peak_bytes = _PEAK_BYTES.get(opened.format, _PEAK_BYTES_OTHER)
    if opened.format in ("JPEG", "MPO") and opened.info.get("progressive"):
        peak_bytes = _PEAK_BYTES_PROGRESSIVE.get(opened.mode, max(_PEAK_BYTES_PROGRESSIVE.values()))
    elif opened.format == "TIFF" and opened.tag_v2.get(_ORIENTATION, 1) != 1:
        peak_bytes = _PEAK_BYTES_TURNED_TIFF
    if width * height * peak_bytes > MAX_DECODE_BYTES:
        most = MAX_DECODE_BYTES // peak_bytes
        kind = f"{opened.format} image of this kind"
        raise BadImage(f"a {kind} must hold at most {most} pixels: got {height}x{width} in {label}", "size")


def _upright_rgb(opened: PIL.Image.Image, label: str) -> np.ndarray:
    """Decodes, and converts strip by strip, so that no second whole copy is held."""
    shift, is_negative = 8, False
    if opened.format == "TIFF":
        shift = max(opened.tag_v2.get(_BITS, (16,))[0] - 8, 0)  # Pillow reads 12 bits as they are
        is_negative = opened.tag_v2.get(_PHOTOMETRIC) == 0 and opened.mode.startswith("I;16")  # it ignores this there
    opened.load()
    width, height = opened.size
    check_size(height, width, label)  # decoders correct a header now and then
    orientation = opened.getexif().get(_ORIENTATION, 1)
    shape = (width, height, 3) if orientation in (5, 6, 7, 8) else (height, width, 3)
    upright = np.empty(shape, np.uint8)
    stored = _AS_STORED[orientation](upright) if orientation in _AS_STORED else upright
    step = max(1, STRIP_PX // width)
    for top in range(0, height, step):
        strip = opened.crop((0, top, width, min(top + step, height)))
        stored[top : top + step] = _to_rgb(strip, shift, is_negative)
    return upright


def _to_rgb(image: PIL.Image.Image, shift: int, is_negative: bool) -> np.ndarray:
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = _high_byte(image, shift, is_negative)
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        paper = PIL.Image.new("RGBA", image.size, BACKGROUND)
        image = PIL.Image.alpha_composite(paper, image)
    return np.asarray(image.convert("RGB"))


def _high_byte(image: PIL.Image.Image, shift: int, is_negative: bool) -> PIL.Image.Image:
    """16-bit grey -> 8-bit grey: 0x12ff becomes 0x12; the value that the file calls transparent becomes white."""
    values = np.asarray(image).astype(np.int32)
    grey = (values >> shift).astype(np.uint8)
    if is_negative:
        grey = 255 - grey
    grey[values == image.info.get("transparency", -1)] = 255
    return PIL.Image.fromarray(grey)


def encode_png(image: Image) -> bytes:
    """The image as PNG bytes (lossless)."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(image.pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def smart_resize(height: int, width: int, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """(height, width), each a multiple of ``factor``, pixels within bounds, aspect nearly kept.

    Raises:
      ValueError: a side is 0 or the aspect ratio is over 200.
    """
    if min(height, width) < 1 or max(height, width) / min(height, width) > MAX_ASPECT:
        raise ValueError(f"image sides must be positive with an aspect ratio up to {MAX_ASPECT}: got {height}x{width}")
    new_height, new_width = round(height / factor) * factor, round(width / factor) * factor
    if new_height * new_width > max_pixels:
        beta = math.sqrt(height * width / max_pixels)
        new_height = max(factor, math.floor(height / beta / factor) * factor)
        new_width = max(factor, math.floor(width / beta / factor) * factor)
    elif new_height * new_width < min_pixels:
        beta = math.sqrt(min_pixels / (height * width))
        new_height = math.ceil(height * beta / factor) * factor
        new_width = math.ceil(width * beta / factor) * factor
    return new_height, new_width


@functools.cache
def _value_table() -> np.ndarray:
    """float32[3, 256]: the normalised value of every 8-bit value, channel by channel."""
    values = (np.arange(256, dtype=np.float64) * (1 / 255)).astype(np.float32)
    table = (values - np.array(MEAN, np.float32)[:, None]) / np.array(STD, np.float32)[:, None]
    table.setflags(write=False)
    return table


class ImageProcessor:
    """uint8[height, width, 3] -> (float32[n_patches, patch_dim], (1, h, w)).

    Patches stand merge-block major: the merge x merge patches of one output token are adjacent. A patch is
    laid out (channel, frame, row, column), so patch_dim = 3 * 2 * patch * patch = 1176 at patch 14.
    """

    def __init__(self, min_pixels: int = 56 * 56, max_pixels: int = 28 * 28 * 1280, patch: int = 14, merge: int = 2):
        if not 0 < min_pixels <= max_pixels:
            raise ValueError(f"0 < min_pixels <= max_pixels must hold: got {min_pixels}, {max_pixels}")
        if patch < 1 or merge < 1:
            raise ValueError(f"patch and merge must be positive: got patch={patch}, merge={merge}")
        if (patch * merge) ** 2 > max_pixels:
            raise ValueError(
                f"max_pixels must hold one token of {patch * merge}x{patch * merge} pixels: got {max_pixels}"
            )
        self.min_pixels, self.max_pixels, self.patch, self.merge = min_pixels, max_pixels, patch, merge

    def grid_of(self, height: int, width: int) -> tuple[int, int, int]:
        """Patch grid (1, h, w) of an image of that size, without touching pixels.

        >>> ImageProcessor().grid_of(84, 84)
        (1, 6, 6)
        """
        factor = self.patch * self.merge
        new_height, new_width = smart_resize(height, width, factor, self.min_pixels, self.max_pixels)
        return 1, new_height // self.patch, new_width // self.patch

    def resized_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) in pixels of what the model is shown: the frame in which Qwen2.5-VL writes boxes.

        >>> ImageProcessor().resized_size(100, 150)
        (112, 140)
        """
        _, grid_h, grid_w = self.grid_of(height, width)
        return grid_h * self.patch, grid_w * self.patch

    def resized(self, pixels: np.ndarray) -> np.ndarray:
        """uint8[height, width, 3], what the model is shown of a picture; resized again it stays as it is."""
        size = self.resized_size(*pixels.shape[:2])
        if pixels.shape[:2] == size:
            return pixels
        picture = PIL.Image.fromarray(np.ascontiguousarray(pixels))
        return np.asarray(picture.resize(size[::-1], PIL.Image.Resampling.BICUBIC))

    def n_tokens(self, grid: tuple[int, int, int]) -> int:
        """Language tokens that a grid becomes after merging: (1, 6, 6) -> 9 at merge 2."""
        return math.prod(grid) // self.merge**2

    def __call__(self, pixels: np.ndarray) -> tuple[np.ndarray, tuple[int, int, int]]:
        """See the class.

        Raises:
          ValueError: not uint8[h, w, 3], or an aspect ratio over 200.
        """
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise ValueError(f"pixels must be uint8[height, width, 3]: got {pixels.dtype}{list(pixels.shape)}")
        _, grid_h, grid_w = grid = self.grid_of(*pixels.shape[:2])
        pixels = self.resized(pixels)
        m, p = self.merge, self.patch
        blocks = pixels.reshape(grid_h // m, m, p, grid_w // m, m, p, 3)
        blocks = blocks.transpose(0, 3, 1, 4, 6, 2, 5)  # block row, block col, row, col in block, C, y, x
        patches = np.empty((*blocks.shape[:5], TEMPORAL_PATCH, p, p), np.float32)
        for channel, table in enumerate(_value_table()):  # channel by channel: three times as fast as all at once
            patches[:, :, :, :, channel] = np.take(table, blocks[:, :, :, :, channel])[:, :, :, :, None]
        return patches.reshape(grid_h * grid_w, -1), grid
