"""What a call is given (source, earlier cells, images): from the trainer straight to the child that runs it.

No other process sees it. The child writes the images into its folder itself, before the code runs.
"""

import dataclasses
import json
import os
import socket
import struct
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from arft_jax import protocol

SUFFIX = ".png"
_FRAME = struct.Struct("<I")  # bytes of the JSON object; the pixels follow
_CHUNK_BYTES = 1 << 16  # small enough for memory that is there already
_BLOCK_BYTES = 4096  # files fill whole blocks


def file_of(name: str) -> str:
    """File under which an image lies in the call's folder."""
    return name + SUFFIX


def _header(height: int, width: int) -> bytes:
    """Of a binary PPM: lossless and nothing to compute; readers go by content, not by the file's name."""
    return b"P6\n%d %d\n255\n" % (width, height)


def _seed(source: str, images: Sequence[np.ndarray]) -> int:
    """One code on one set of images gives one result, on any worker, after any restart."""
    seed = zlib.crc32(source.encode("utf-8", "surrogatepass"))
    for pixels in images:
        seed = zlib.crc32(pixels, seed)
    return seed


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """A call's own.

    Args:
      head: what the child is told beside the pixels, JSON-able: see :func:`make`.
      images: uint8[height, width, 3] each, contiguous.
    """

    head: dict
    images: tuple[np.ndarray, ...]

    @property
    def n_given(self) -> int:
        """Bytes that its files fill on the disk, at most."""
        sizes = zip(self.head["files"], self._sizes(), strict=True)
        return sum(len(file["names"]) * (n_bytes + _BLOCK_BYTES) for file, n_bytes in sizes)

    @property
    def largest(self) -> int:
        """Bytes of the largest of its files."""
        return max(self._sizes(), default=0)

    def _sizes(self) -> list[int]:
        return [len(_header(*pixels.shape[:2])) + pixels.nbytes for pixels in self.images]

    def send(self, sock: socket.socket) -> None:
        """Writes it to a child; blocks while the child is behind."""
        head = json.dumps(self.head).encode("ascii")
        sock.sendall(_FRAME.pack(len(head)) + head)
        for pixels in self.images:
            sock.sendall(memoryview(pixels).cast("B"))


def make(
    source: str, cells: Sequence[tuple[str, int]] | None, named: Mapping[str, np.ndarray], by_name: bool
) -> Request:
    """Puts a call's own together.

    The last image also lies under the paper's name, as a file of its own: code may write over it.

    Args:
      source: Python.
      cells: earlier code of the session, each with the number of images that there were; None for no session.
      named: uint8[height, width, 3] pixels by name, oldest first; the only one of the paper's protocol has none.
      by_name: whether the code finds the images by their names.
    """
    images = tuple(np.ascontiguousarray(pixels) for pixels in named.values())
    files = [
        {"names": [file_of(name)] if name else [], "height": pixels.shape[0], "width": pixels.shape[1]}
        for name, pixels in zip(named, images, strict=True)
    ]
    if files:
        files[-1]["names"].append(protocol.INPUT_NAME)
    head = {
        "source": source,
        "seed": _seed(source, images if cells is None else ()),
        "cells": [{"source": cell, "seed": _seed(cell, ()), "n_images": n} for cell, n in cells or ()],
        "images": list(named) if by_name else None,
        "files": files,
    }
    return Request(head, images)


def _read_into(fd: int, view: memoryview) -> int:
    """Reads at most as much as fits; returns how much. Raises EOFError at the end."""
    n = os.readv(fd, [view])
    if not n:
        raise EOFError("the request ended in its midst")
    return n


def _read_exactly(fd: int, n_bytes: int) -> bytearray:
    data = bytearray(n_bytes)
    view = memoryview(data)
    while view:
        view = view[_read_into(fd, view) :]
    return data


def _write_all(fd: int, view: memoryview) -> None:
    while view:
        view = view[os.write(fd, view) :]


def _write_image(fd: int, file: dict) -> None:
    """Passes one image's pixels on to its files."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    outputs = [os.open(name, flags, 0o600) for name in file["names"]]
    try:
        piece, left = memoryview(_header(file["height"], file["width"])), 3 * file["height"] * file["width"]
        buffer = memoryview(bytearray(_CHUNK_BYTES))
        while piece:
            for output in outputs:
                _write_all(output, piece)
            piece = buffer[: _read_into(fd, buffer[: min(left, _CHUNK_BYTES)])] if left else buffer[:0]
            left -= len(piece)
    finally:
        for output in outputs:
            os.close(output)


def receive(fd: int) -> dict | None:
    """Reads a call's own, in the child, and writes its images into the current folder.

    Returns:
      The head of :class:`Request`; None where nothing came: no call will be made.

    Raises:
      EOFError: the trainer is gone, in the midst of it.
      OSError: a file could not be written.
    """
    first = os.read(fd, _FRAME.size)
    if not first:
        return None
    (n_bytes,) = _FRAME.unpack(first + bytes(_read_exactly(fd, _FRAME.size - len(first))))
    head = json.loads(_read_exactly(fd, n_bytes))
    for file in head["files"]:
        _write_image(fd, file)
    return head
