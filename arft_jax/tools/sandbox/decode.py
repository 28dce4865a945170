"""Decodes an image file of untrusted code: by the door for images (data/images.py), tighter, worded for the policy."""

import io

import PIL.Image

from arft_jax.data import images
from arft_jax.trajectory import Image

MAX_SIDE_PX = 16384
MAX_ASPECT = 100  # longer to shorter side; a patch-based vision model can take no more than 200


class BadImage(Exception):
    """The file is no usable image; the message is one sentence for the policy."""


def _check_header(image: PIL.Image.Image, max_image_px: int) -> None:
    width, height = image.size
    if width < 1 or height < 1 or max(width, height) > MAX_SIDE_PX or width * height > max_image_px:
        raise BadImage(f"The output image is too large ({width}x{height}).")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BadImage(f"The output image is too narrow ({width}x{height}).")
    if min(width, height) < images.MIN_SIDE_PX:
        raise BadImage(f"The output image is too small ({width}x{height}).")


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
    try:
        with PIL.Image.open(io.BytesIO(data), formats=images.readable_formats()) as opened:
            _check_header(opened, max_image_px)
        return images.decode_image(data, max_pixels=max_image_px)
    except BadImage:
        raise
    except images.BadImage as error:
        if error.cause == "depth":
            raise BadImage("The output image must have 8 or 16 bits a channel.") from None
        raise BadImage("The output image could not be read.") from None
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning):
        raise BadImage("The output image is too large.") from None
    except Exception:  # decoders raise nearly anything on broken files
        raise BadImage("The output image could not be read.") from None
