"""Conversations in OpenAI's message form: texts and images of messages that the user's files hold.

A message is ``{"role": .., "content": ..}``; content is text, or a list of parts:

    {"type": "text", "text": ".."}
    {"type": "image_url", "image_url": {"url": ".."}}     the url may stand without its object
    {"type": "image", "image": ".."}                      as Qwen's processors write it
    {"type": "image"}                                     the next of the line's ``images``, as TRL writes it

An image is a path relative to the folder of the file, out of which it may not lead, or a ``data:`` URI, which is
decoded at the start and kept in memory. Nothing is downloaded. A prompt shows a message's images before its text;
several texts are joined by a line break.
"""

import base64
import binascii
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from arft_jax.data.image_files import FileImage, ImageFiles, safe_path
from arft_jax.data.images import decode_image
from arft_jax.data.items import wrong
from arft_jax.trajectory import Image

_DATA_URI = re.compile(r"data:image/[\w.+-]+;base64,(.*)", re.DOTALL | re.ASCII)
_IMAGE_PARTS = {"image_url": "image_url", "image": "image"}


class LineImages:
    """Opens the images that one line of a file names, in order.

    Args:
      files: decodes and keeps pixels.
      folder: of the file.
      where: the line, for errors.
      listed: its ``images``: sources that parts without a source of their own take one after the other.
    """

    def __init__(self, files: ImageFiles, folder: pathlib.Path, where: str, listed: Sequence[Any] = ()):
        self._files, self._folder, self._where = files, folder, where
        self._listed = list(listed)
        self._n = 0

    def open(self, source: Any, key: str) -> Image:
        """The image of a path or of a ``data:`` URI, under the next name.

        Raises:
          ValueError: neither of them, or an image that cannot be read; the key is named.
        """
        self._n += 1
        name = f"image_{self._n}"
        if not isinstance(source, str) or not source:
            raise wrong(self._where, key, "be the path of an image file or a data: URI", source)
        if re.match(r"(?!data:)[A-Za-z][\w+.-]+:", source):
            raise wrong(self._where, key, "be a path or a data: URI, nothing is downloaded", source)
        try:
            if source.startswith("data:"):
                return decode_image(data_uri_content(source), name)
            return FileImage(self._files, safe_path(self._folder, source), name, self._where)
        except ValueError as error:
            raise ValueError(f"{self._where}: {key}: {error}") from error

    def next(self, key: str) -> Image:
        """The next of the line's ``images``.

        Raises:
          ValueError: there is none left.
        """
        if not self._listed:
            raise ValueError(f"{self._where}: {key} must name an image, or images must hold one more: got neither")
        return self.open(self._listed.pop(0), "images")

    def rest(self) -> tuple[Image, ...]:
        """The line's ``images`` that no part took."""
        return tuple(self.next("images") for _ in range(len(self._listed)))


def data_uri_content(source: str) -> bytes:
    """The bytes of an image's ``data:`` URI; empty where it is none, which the door for images refuses."""
    found = _DATA_URI.fullmatch(source)
    try:
        return base64.b64decode(found.group(1), validate=True) if found else b""
    except (binascii.Error, ValueError):
        return b""


def messages_of(item: Mapping[str, Any], where: str) -> list[Mapping[str, Any]]:
    """The messages of a line.

    Raises:
      ValueError: no list of objects with a role.
    """
    messages = item.get("messages")
    if not isinstance(messages, list) or not messages:
        raise wrong(where, "messages", "be a list of messages", messages)
    for place, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise wrong(where, f"messages[{place}]", "be an object with a role", message)
    return messages


def content_of(message: Mapping[str, Any], key: str, images: LineImages, where: str) -> tuple[str, tuple[Image, ...]]:
    """(text, images) of a message.

    Args:
      message: the message.
      key: its place, for errors: ``messages[0]``.
      images: opens what it shows.
      where: the line.

    Raises:
      ValueError: a content of another form.
    """
    content = message.get("content")
    if content is None:  # as beside a tool call
        return "", ()
    if isinstance(content, str):
        return content, ()
    if not isinstance(content, list):
        raise wrong(where, f"{key}.content", "be text or a list of parts", content)
    texts, shown = [], []
    for place, part in enumerate(content):
        name = f"{key}.content[{place}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text":
            if not isinstance(part.get("text"), str):
                raise wrong(where, f"{name}.text", "be text", part.get("text"))
            texts.append(part["text"])
        elif kind in _IMAGE_PARTS:
            source = part.get(_IMAGE_PARTS[kind], part.get("url", part.get("path")))
            source = source.get("url") if isinstance(source, dict) else source
            shown.append(images.next(name) if source is None and kind == "image" else images.open(source, name))
        else:
            raise wrong(where, name, "be a part of type text, image_url or image", part)
    return "\n".join(texts), tuple(shown)
