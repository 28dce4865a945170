"""Crops a box out of an image; the frame in which its numbers are meant is named, never guessed.

Qwen2.5-VL writes boxes in pixels of the image as it was resized for it (arXiv 2502.13923, section 2.1.1), other models
in thousandths of the sides, tools in pixels of the file. A box (x0, y0, x1, y1) holds the columns x0 <= x < x1.

The policy reaches it from its Python code as ``crop(name, box, frame)`` in the protocol with named images
(sandbox/helpers.py), in the frames that need no processor; ``launch/tool.py crop`` has all three.
"""

import math
import time
from collections.abc import Sequence

from arft_jax.data.images import BadImage, ImageProcessor, check_size
from arft_jax.trajectory import Image, Observation, ToolStatus

FRAMES = ("resized", "permille", "original")
Box = tuple[float, float, float, float]


class BadBox(Exception):
    """The box names no part of the image; the message is one sentence for the policy."""


def frame_size(size: tuple[int, int], frame: str, processor: ImageProcessor | None = None) -> tuple[int, int]:
    """(height, width) of the whole image in the units of a frame.

    >>> frame_size((480, 640), "permille"), frame_size((480, 640), "original")
    ((1000, 1000), (480, 640))

    Args:
      size: (height, width) of the image in pixels.
      frame: one of FRAMES.
      processor: resizes for the model; needed by ``resized``.

    Raises:
      ValueError: another frame, or no processor where one is needed.
    """
    if frame not in FRAMES:
        raise ValueError(f"frame must be one of {', '.join(FRAMES)}: got {frame!r}")
    if frame == "permille":
        return 1000, 1000
    if frame == "original":
        return size
    if processor is None:
        raise ValueError("frame 'resized' needs the image processor of the model")
    return processor.resized_size(*size)


def _clipped(box: Sequence[float], height: int, width: int) -> Box:
    """The box inside the frame; raises BadBox where nothing is meant by it or nothing is left of it."""
    numbers = list(box)
    if len(numbers) != 4 or not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in numbers):
        raise BadBox("A box must be four numbers: x0, y0, x1, y1.")
    if not all(isinstance(v, int) or math.isfinite(v) for v in numbers):
        raise BadBox("The numbers of a box must be finite.")
    x0, y0, x1, y1 = numbers
    if x0 >= x1 or y0 >= y1:
        raise BadBox("The box is empty: x0 must be below x1 and y0 below y1.")
    x0, x1 = (min(max(v, 0), width) for v in (x0, x1))
    y0, y1 = (min(max(v, 0), height) for v in (y0, y1))
    if x0 >= x1 or y0 >= y1:
        raise BadBox(f"The box lies outside of the image, which is {width} wide and {height} high in its units.")
    return x0, y0, x1, y1


def pixel_box(
    box: Sequence[float], size: tuple[int, int], frame: str, processor: ImageProcessor | None = None
) -> tuple[tuple[int, int, int, int], str]:
    """The box in whole pixels of the image, and a remark where it was clipped.

    Edges are rounded to the nearest pixel edge, halves up, and a box never vanishes by rounding:
    image 480 x 640, permille (250, 0, 500.2, 1200) -> x: 160, 320.128; y: 0, 480 -> (160, 0, 320, 480), clipped.

    Args:
      box: x0, y0, x1, y1 in units of the frame.
      size: (height, width) of the image in pixels.
      frame: one of FRAMES.
      processor: see :func:`frame_size`.

    Raises:
      BadBox: not four finite numbers, empty, inverted, or wholly outside.
      ValueError: see :func:`frame_size`.
    """
    height, width = frame_size(size, frame, processor)
    x0, y0, x1, y1 = clipped = _clipped(box, height, width)
    columns = _edges(x0, x1, size[1], width)
    rows = _edges(y0, y1, size[0], height)
    remark = ""
    if list(clipped) != list(box):
        numbers = ", ".join(f"{v:g}" for v in clipped)
        remark = f"The box reached beyond the image and was clipped to ({numbers})."
    return (columns[0], rows[0], columns[1], rows[1]), remark


def _edges(low: float, high: float, side: int, frame_side: int) -> tuple[int, int]:
    start = min(math.floor(low * side / frame_side + 0.5), side - 1)
    return start, max(math.floor(high * side / frame_side + 0.5), start + 1)


def crop(image: Image, box: Sequence[float], frame: str, processor: ImageProcessor | None = None) -> Observation:
    """Cuts the box out; what is wrong with the box is an observation, never an exception.

    Args:
      image: to cut from; it stays as it is.
      box: x0, y0, x1, y1.
      frame: the units of the box, one of FRAMES.
      processor: see :func:`frame_size`.

    Returns:
      The part as an image of its own, or a sentence with status error. The text holds the remark on clipping.

    Raises:
      ValueError: see :func:`frame_size`.
    """
    started = time.monotonic()
    try:
        (x0, y0, x1, y1), remark = pixel_box(box, image.size, frame, processor)
        check_size(y1 - y0, x1 - x0)
    except BadBox as error:
        return Observation(str(error), (), ToolStatus.ERROR, time.monotonic() - started)
    except BadImage:
        text = f"The box is too small or too narrow: it holds {x1 - x0}x{y1 - y0} pixels of the image."
        return Observation(text, (), ToolStatus.ERROR, time.monotonic() - started)
    part = image.pixels[y0:y1, x0:x1].copy()  # a view would keep the whole image alive
    return Observation(remark, (Image(part),), ToolStatus.OK, time.monotonic() - started)
