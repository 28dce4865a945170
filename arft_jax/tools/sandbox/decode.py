"""Decodes an image file that untrusted code wrote: header first, then pixels, always to upright RGB."""

import io

import numpy as np
import PIL.Image
import PIL.ImageOps

from arft_jax.trajectory import Image

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF", "PPM")
MAX_SIDE_PX = 16384
_ORIENTATION = 0x0112  # EXIF
MAX_ASPECT = 100  # longer to shorter side; a patch-based vision model can take no more than 200


class BadImage(Exception):
    """The file is no usable image; the message is one sentence for the policy."""


def _check_header(image: PIL.Image.Image, max_image_px: int) -> None:
    width, height = image.size
    if width < 1 or height < 1 or max(width, height) > MAX_SIDE_PX or width * height > max_image_px:
        raise BadImage(f"The output image is too large ({width}x{height}).")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BadImage(f"The output image is too narrow ({width}x{height}).")


def _on_white(image: PIL.Image.Image) -> PIL.Image.Image:
    """Lays a transparent image on white, whichever mode carries the transparency."""
    image = image.convert("RGBA")
    ground = PIL.Image.new("RGBA", image.size, "white")
    return PIL.Image.alpha_composite(ground, image).convert("RGB")


def _to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """Converts by meaning: 16 bits by their high byte, floats in [0, 1] or [0, 255], alpha on white.

    ``convert("RGB")`` alone clips 16-bit values to white, turns floats black and drops alpha unevenly.
    """
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.size and values.max() > 255:
            values = values >> 8
        image = PIL.Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
    elif image.mode == "F":
        values = np.nan_to_num(np.asarray(image), nan=0.0, posinf=255.0, neginf=0.0)
        scale = 255.0 if values.size and values.max() <= 1.0 else 1.0
        image = PIL.Image.fromarray(np.clip(np.rint(values * scale), 0, 255).astype(np.uint8))
    elif image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = _on_white(image)
    return image.convert("RGB")


def decode_rgb(data: bytes, max_image_px: int) -> PIL.Image.Image:
    """Decodes the file to an upright RGB image; arguments and errors as :func:`decode_output`."""
    try:
        with PIL.Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_header(image, max_image_px)
            if image.getexif().get(_ORIENTATION, 1) != 1:
                image = PIL.ImageOps.exif_transpose(image)
            if image.mode == "RGB" and "transparency" not in image.info:
                image.load()
                return image
            return _to_rgb(image)
    except BadImage:
        raise
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning):
        raise BadImage("The output image is too large.") from None
    except Exception:  # decoders raise nearly anything on broken files
        raise BadImage("The output image could not be read.") from None


def decode_output(data: bytes, max_image_px: int) -> Image:
    """Decodes the file to an image.

    Args:
      data: the file's bytes, already capped in size.
      max_image_px: inclusive cap on height times width.

    Returns:
      The image, turned upright by its EXIF orientation, RGB.

    Raises:
      BadImage: whatever is wrong with the file.
    """
    return Image(np.array(decode_rgb(data, max_image_px)))
