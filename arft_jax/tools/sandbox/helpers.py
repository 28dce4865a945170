"""What model-written code finds ready in the protocol with named images: ``images``, ``image_1``, ``show``."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import PIL.Image

SUFFIX = ".png"
_AS_THEY_ARE = ("RGBA", "LA", "I;16")


def file_of(name: str) -> str:
    """File under which an image lies in the call's folder."""
    return name + SUFFIX


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


def make_globals(names: Sequence[str] | None) -> dict[str, object]:
    """Variables that the code starts with.

    Args:
      names: of the images that lie in the current folder; None: the paper's protocol alone, without helpers.
    """
    values: dict[str, object] = {"__name__": "__main__"}
    if names is not None:
        images = {name: PIL.Image.open(file_of(name)) for name in names}
        values |= {"images": images, "show": _make_show(), **images}
    return values
