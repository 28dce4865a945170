"""Images in and out of the model: decoding, and Qwen2-VL's resize, normalise and patchify.

The arithmetic is that of transformers ``Qwen2VLImageProcessorPil`` (bit for bit, by test), written over
one table of 3 x 256 float32 values, because after an 8-bit resize every pixel value is one of 256.
"""

import functools
import io
import math
import os
import warnings

import numpy as np
import PIL.Image
import PIL.ImageOps

from arft_jax.trajectory import Image

MAX_DECODE_PIXELS = 50_000_000
MAX_ASPECT = 200
TEMPORAL_PATCH = 2  # a still image fills both frames of a temporal patch
MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's, RGB
STD = (0.26862954, 0.26130258, 0.27577711)


def decode_image(data: bytes | str | os.PathLike, name: str = "") -> Image:
    """Decodes an image file to RGB, upright by its EXIF orientation, transparency over white.

    The header's pixel count is checked before any pixel is decoded; of an animation the first frame is taken.
    Colours are those of transformers' ``convert_to_rgb`` with two departures:

    1. 16-bit grey keeps the high byte, as Pillow does for 16-bit colour; transformers clips at 255, which turns
       almost all of such a picture white.
    2. 32-bit integers and floats are refused: nothing in the file says which value is white.

    Args:
      data: encoded bytes, or a path.
      name: how the trajectory refers to it; for bytes it also names the image in errors.

    Raises:
      ValueError: the file is missing, is no readable image, holds more than 50 million pixels or more than 16 bits
        a channel.
    """
    is_bytes = isinstance(data, bytes)
    label = (name or "<bytes>") if is_bytes else os.fspath(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on large pictures and odd metadata
            with PIL.Image.open(io.BytesIO(data) if is_bytes else data) as opened:
                refusal = _refusal(opened)
                if refusal is None:
                    return Image(_to_rgb(PIL.ImageOps.exif_transpose(opened)), name)
    except FileNotFoundError:
        raise ValueError(f"image file must exist: got {label}") from None
    except PIL.UnidentifiedImageError:
        raise ValueError(f"image must be readable: got {label} (no image format that Pillow knows)") from None
    except PIL.Image.DecompressionBombError:  # Pillow's own limit, far above ours
        refusal = f"an image must hold at most {MAX_DECODE_PIXELS} pixels: got many more"
    except Exception as error:  # damaged files make the decoders raise nearly anything
        raise ValueError(f"image must be readable: got {label} ({type(error).__name__}: {error})") from error
    raise ValueError(f"{refusal} in {label}")


def _refusal(opened: PIL.Image.Image) -> str | None:
    """Why a readable header is not to be decoded, or None."""
    width, height = opened.size
    if width * height > MAX_DECODE_PIXELS:
        return f"an image must hold at most {MAX_DECODE_PIXELS} pixels: got {height}x{width}"
    # Mode I is 16-bit grey too, but only where the format has no more (PPM; PNG in older versions of Pillow).
    if opened.mode == "F" or (opened.mode == "I" and opened.format not in ("PNG", "PPM")):
        return f"an image must have at most 16 bits a channel: got Pillow mode {opened.mode}"
    return None


def _to_rgb(image: PIL.Image.Image) -> np.ndarray:
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = _high_byte(image)
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        paper = PIL.Image.new("RGBA", image.size, "white")
        image = PIL.Image.alpha_composite(paper, image)
    return np.array(image.convert("RGB"))


def _high_byte(image: PIL.Image.Image) -> PIL.Image.Image:
    """16-bit grey -> 8-bit grey: 0x12ff becomes 0x12; the value that the file calls transparent becomes white."""
    values = np.asarray(image).astype(np.int32)
    grey = (values >> 8).astype(np.uint8)
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
        size = (grid_h * self.patch, grid_w * self.patch)
        if pixels.shape[:2] != size:
            resized = PIL.Image.fromarray(np.ascontiguousarray(pixels)).resize(size[::-1], PIL.Image.Resampling.BICUBIC)
            pixels = np.asarray(resized)
        m, p = self.merge, self.patch
        blocks = pixels.reshape(grid_h // m, m, p, grid_w // m, m, p, 3)
        blocks = blocks.transpose(0, 3, 1, 4, 6, 2, 5)  # block row, block col, row, col in block, C, y, x
        patches = np.empty((*blocks.shape[:5], TEMPORAL_PATCH, p, p), np.float32)
        for channel, table in enumerate(_value_table()):  # channel by channel: three times as fast as all at once
            patches[:, :, :, :, channel] = np.take(table, blocks[:, :, :, :, channel])[:, :, :, :, None]
        return patches.reshape(grid_h * grid_w, -1), grid
