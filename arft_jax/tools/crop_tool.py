"""The tool that cuts a box out of one of the trajectory's images and shows it."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from arft_jax.data.images import ImageProcessor
from arft_jax.syntax.spec import ToolSpec
from arft_jax.tools.bank import Refused
from arft_jax.tools.context import ToolContext
from arft_jax.tools.crop import crop
from arft_jax.tools.record import Job, Tool, ToolHost
from arft_jax.trajectory import Observation, ToolStatus


class CropService:
    """Cuts boxes out.

    Args:
      frame: in which the numbers of a box are meant (crop.py).
      processor: of the model, for the frame ``resized``.
    """

    def __init__(self, frame: str, processor: ImageProcessor | None = None):
        self._frame, self._processor = frame, processor

    def begin(self, arguments: Mapping[str, Any], context: ToolContext) -> Job | Observation:
        """See :class:`arft_jax.tools.record.Service`."""
        name = arguments.get("image")
        try:
            image = context.images.get(name) if name else context.newest
        except Refused as error:
            return Observation(str(error), (), ToolStatus.ERROR)
        if image is None:
            return Observation("There is no image to crop.", (), ToolStatus.ERROR)
        return Job(lambda call: crop(image, arguments["box"], self._frame, self._processor))


@contextlib.contextmanager
def _open(host: ToolHost) -> Iterator[CropService]:
    yield CropService(host.settings["crop_frame"], host.processor)


_UNITS = {
    "permille": "The numbers run from 0 to 1000 over the picture's width (x) and height (y).",
    "original": "The numbers are pixels of the picture.",
    "resized": "The numbers are pixels of the picture as it is shown to you.",
}


def _specify(host: ToolHost) -> ToolSpec:
    """Says in which units the numbers of a box are."""
    spec, units = CROP.spec, _UNITS[host.settings["crop_frame"]]
    return dataclasses.replace(spec, description=f"{spec.description} {units}", line=f"{spec.line} {units}")


CROP = Tool(
    ToolSpec(
        name="crop",
        description="Cuts a box out of a picture and shows it.",
        parameters={
            "type": "object",
            "properties": {
                "box": {
                    "type": "array",
                    "items": {"type": "number"},
                    "description": "x0, y0, x1, y1: the left, upper, right and lower edge of the box.",
                },
                "image": {
                    "type": "string",
                    "description": "The name of the picture, as image_1; the newest one where it is left out.",
                },
            },
            "required": ["box"],
        },
        tag="crop",
        line='<crop>{"box": [x0, y0, x1, y1], "image": "image_1"}</crop> cuts the box out of that picture (the newest '
        "one where image is left out) and shows it.",
        kinds=(),
    ),
    _open,
    specify=_specify,
)
