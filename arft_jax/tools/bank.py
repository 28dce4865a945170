"""The images of one trajectory by name: ``image_1`` is the first that was shown, whoever brought it.

The n-th image of a trajectory, given, made by code or found by a search, is ``image_n``: what the policy can count in
its context is what it can write. Pixels are held once for each content, so that showing an image again costs a name
alone. Names follow from the order of arrival only; nothing from outside (a file name, a caption) becomes one.
"""

import dataclasses
from collections.abc import Iterable, Iterator

from arft_jax.data.images import BadImage, check_size
from arft_jax.trajectory import Image, Observation, ToolStatus

PREFIX = "image_"


def name_images(images: Iterable[Image]) -> dict[str, Image]:
    """Images of a trajectory by the names that their order gives them."""
    return {f"{PREFIX}{number}": image for number, image in enumerate(images, start=1)}


class Refused(Exception):
    """The bank does not take or have an image; the message is one sentence for the policy."""


class ImageBank:
    """A bounded store of the images of one trajectory; used by one thread at a time.

    >>> import numpy as np
    >>> bank = ImageBank([Image(np.zeros((8, 8, 3), np.uint8))])
    >>> bank.add(Image(np.ones((8, 8, 3), np.uint8))).name, bank.names
    ('image_2', ('image_1', 'image_2'))

    Args:
      images: what the user shows, in order.
      max_images: names at most, the given ones included.
      max_pixels: height times width at most, summed over different contents.

    Raises:
      ValueError: a bound below 1, or given images that do not fit.
    """

    def __init__(self, images: Iterable[Image] = (), max_images: int = 32, max_pixels: int = 64_000_000):
        for name, value in (("max_images", max_images), ("max_pixels", max_pixels)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1: got {value}")
        self.max_images, self.max_pixels = max_images, max_pixels
        self._named: dict[str, Image] = {}
        self._by_content: dict[str, Image] = {}
        self.n_pixels = 0
        for image in images:
            try:
                self.add(image)
            except Refused as error:
                raise ValueError(f"the images of a task must fit into the bank: {error}") from None

    @property
    def names(self) -> tuple[str, ...]:
        """In order of arrival."""
        return tuple(self._named)

    @property
    def last(self) -> Image | None:
        """The newest image, or None."""
        return next(reversed(self._named.values()), None)

    def __len__(self) -> int:
        return len(self._named)

    def __iter__(self) -> Iterator[Image]:
        return iter(self._named.values())

    def add(self, image: Image) -> Image:
        """Takes an image in and returns it under its name.

        Args:
          image: whatever name it has is replaced.

        Raises:
          Refused: no room, or a size that the door for images does not let through. The bank is as it was.
        """
        if len(self._named) >= self.max_images:
            raise Refused(f"At most {self.max_images} images can be kept.")
        height, width = image.size
        try:
            check_size(height, width)
        except BadImage as error:
            raise Refused(f"{str(error)[0].upper()}{str(error)[1:]}.") from None
        key = image.sha256
        kept = self._by_content.get(key)
        if kept is None:
            if self.n_pixels + height * width > self.max_pixels:
                left = self.max_pixels - self.n_pixels
                raise Refused(f"An image of {width}x{height} needs more than the {left} pixels that can still be kept.")
            kept = self._by_content[key] = image
            self.n_pixels += height * width
        name = f"{PREFIX}{len(self._named) + 1}"
        self._named[name] = kept if kept.name == name else Image(kept.pixels, name)
        return self._named[name]

    def get(self, name: str) -> Image:
        """The image of that name.

        Raises:
          Refused: there is none; the sentence lists what there is.
        """
        if name in self._named:
            return self._named[name]
        there = ", ".join(self._named) if self._named else "none"
        raise Refused(f"There is no image of that name. Images: {there}.")

    def admit(self, observation: Observation, announce: bool = False) -> Observation:
        """Takes the images of a tool's reply in, so that later calls can name them.

        Images that are refused leave the reply; its text says why, and a reply that was nothing but them is a limit.

        Args:
          observation: as the tool returned it.
          announce: also say the names in the text, as ``image_2: 640x480`` (width x height).

        Returns:
          The reply as the policy sees it, its images under their names.
        """
        if not observation.images:
            return observation
        lines, images = [observation.text] if observation.text else [], []
        for image in observation.images:
            try:
                images.append(self.add(image))
            except Refused as error:
                lines.append(str(error))
        if announce:
            lines += [f"{image.name}: {image.size[1]}x{image.size[0]}" for image in images]
        status = observation.status
        if status == ToolStatus.OK and not images:
            status = ToolStatus.LIMIT
        return dataclasses.replace(observation, text="\n".join(lines), images=tuple(images), status=status)
