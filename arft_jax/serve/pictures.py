"""Images of requests: ``data:`` URIs, and files below one folder where the server allows one. Nothing is downloaded."""

import pathlib
import urllib.parse
from typing import Any

from arft_jax.data.image_files import safe_path
from arft_jax.data.images import BadImage, decode_image
from arft_jax.data.messages import data_uri_content
from arft_jax.serve.requests import BadRequest
from arft_jax.trajectory import Image


class Pictures:
    """Opens what the image parts of one request name; the n-th is ``image_n``.

    Args:
      folder: of files that may be named as ``file://PATH``; None: none may.
    """

    def __init__(self, folder: pathlib.Path | None):
        self._folder, self._n = folder, 0

    def open(self, source: Any, where: str) -> Image:
        """The image of a source.

        Raises:
          BadRequest: neither a ``data:`` URI nor an allowed file, or nothing that can be decoded.
        """
        self._n += 1
        if not isinstance(source, str):
            raise BadRequest(f"{where}.image_url must have a url", where)
        try:
            return decode_image(self._content(source, where), f"image_{self._n}")
        except BadImage as error:
            raise BadRequest(f"{where}: {error}", where) from None

    def _content(self, source: str, where: str) -> bytes | pathlib.Path:
        if source.startswith("data:"):
            return data_uri_content(source)
        if not source.startswith("file://"):
            told = "a data: URI of an image, in base64" + ("" if self._folder is None else ", or file://PATH")
            raise BadRequest(f"{where} must be {told}; nothing is downloaded: got {source[:40]!r}", where)
        if self._folder is None:
            raise BadRequest(f"{where}: this server reads no files", where)
        return self._file(urllib.parse.unquote(source.removeprefix("file://")), where)

    def _file(self, name: str, where: str) -> pathlib.Path:
        """A file below the folder, by its path in it, or by its whole path; errors tell nothing about what is there."""
        root = self._folder.resolve()
        pure = pathlib.PurePosixPath(name)
        if pure.is_absolute() and pure.is_relative_to(root):
            pure = pure.relative_to(root)
        try:
            return safe_path(root, str(pure))
        except ValueError:
            raise BadRequest(f"{where}: a file must be there, and in the folder that is allowed", where) from None
