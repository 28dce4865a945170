"""What model-written code finds ready in the protocol with named images: images by name, ``show`` and ``crop``."""

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import PIL.Image

from arft_jax.tools.crop import BadBox, pixel_box
from arft_jax.tools.sandbox.request import file_of

_AS_THEY_ARE = ("RGBA", "LA", "I;16")


def _make_show() -> Callable[[object], str]:
    numbers = itertools.count(1)

    def show(image: object) -> str:
        """Returns an image to the reader: a PIL image, or an array in RGB order; as many as wanted."""
        picture = image if isinstance(image, PIL.Image.Image) else PIL.Image.fromarray(np.asarray(image))
        if picture.mode in ("F", "I"):
            raise TypeError("show() takes images of 8 or 16 bits a channel")
        name = file_of(f"output_{next(numbers)}")
        if picture.mode in _AS_THEY_ARE or "transparency" in picture.info:
            picture.save(name, "PNG", compress_level=1)  # transparency and 16 bits have one meaning: the reader's
        else:
            picture.convert("RGB").save(name, "PPM")  # lossless, and nothing to compute
        return name

    return show


def _make_crop(images: Mapping[str, PIL.Image.Image]) -> Callable[[str, Sequence[float], str], PIL.Image.Image]:
    def crop(name: str, box: Sequence[float], frame: str) -> PIL.Image.Image:
        """Cuts the box (x0, y0, x1, y1) out of the image of that name, to be worked on or shown: show(crop(...)).

        The box is in a frame of tools/crop.py, ``permille`` or ``original``; ``resized`` needs the model's processor,
        which is not here. A box that reaches beyond the image is clipped, and a line is printed that says so.
        """
        width, height = images[name].size
        try:
            edges, remark = pixel_box(np.asarray(box).tolist(), (height, width), frame)
        except BadBox as error:
            raise ValueError(str(error)) from None
        if remark:
            print(remark)
        return images[name].crop(edges)

    return crop


def make_globals(names: Sequence[str] | None) -> dict[str, object]:
    """Variables that the code starts with.

    Args:
      names: of the images that lie in the current folder; None: the paper's protocol alone, without helpers.
    """
    values: dict[str, object] = {"__name__": "__main__"}
    if names is not None:
        images = {name: PIL.Image.open(file_of(name)) for name in names}
        values |= {"images": images, "show": _make_show(), "crop": _make_crop(images), **images}
    return values
