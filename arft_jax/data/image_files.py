"""Images of a data set that stay on disk until they are looked at; decoded pixels are kept up to a bound.

A training set of thousands of photographs does not fit the host's memory. At the start only headers are read, so that a
missing or unreadable file is known before any compute; pixels are decoded when a rollout, a tool or a page asks.

Where a quarantine is given (training data), a file that the door for images refuses, at the start or when it is
decoded, is replaced by a uniform grey image: of the header's size where that was read, else of a stand-in's. It is
counted once, and what shows it is no fault of the policy.
"""

import os
import pathlib
import threading
import warnings
from collections import OrderedDict
from typing import BinaryIO

import numpy as np
import PIL.Image

from arft_jax.data.images import (
    STAND_IN_GREY,
    STAND_IN_PX,
    BadImage,
    Quarantine,
    check_size,
    decode_image,
    encode_png,
    readable_formats,
)
from arft_jax.data.open_file import open_regular
from arft_jax.trajectory import Image

_ORIENTATION = 0x0112  # EXIF tag
_ON_THEIR_SIDE = (5, 6, 7, 8)  # its values that swap height and width
_STILL = (".jpg", ".jpeg")  # not looked into for frames
# Where a PNG holds one of these, its orientation may stand behind the pixels: the header does not tell the size.
_PNG_METADATA = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")


def safe_path(root: pathlib.Path, name: object) -> pathlib.Path:
    """The file that a data set names, which must lie inside its folder, links followed.

    Args:
      root: the folder.
      name: as it stands in the data set: relative, without ``..``.

    Raises:
      ValueError: a name that leads out of the folder, is no path at all, or names no regular file.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise ValueError(f"an image path must be a file name: got {name!r}")
    pure = pathlib.PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts:
        raise ValueError(f"an image path must stay in its folder, relative and without '..': got {name!r}")
    root = root.resolve()
    try:
        path = (root / pure).resolve()
        inside, is_file = path.is_relative_to(root), path.is_file()
    except (OSError, RuntimeError, UnicodeError) as error:  # too long, a circle of links, no encoding
        raise ValueError(f"an image path must be a file name: got {name!r} ({error})") from error
    if not inside:
        raise ValueError(f"an image path must stay in its folder: {name!r} is a link to {path}, outside of {root}")
    if not is_file:
        raise ValueError(f"image file must exist: got {path}")
    return path


def _open(path: str | os.PathLike) -> BinaryIO:
    return open_regular(path, os.fspath(path), links=False)


def header_size(path: str | os.PathLike) -> tuple[int, int]:
    """(height, width) of the upright image, from the file's header alone where that tells it: JPEG and most PNG.

    Args:
      path: resolved: no part of it is a link.

    Raises:
      ValueError: no readable image, or a size that is not let in.
    """
    try:
        size = _told_by_header(path)
    except Exception:  # damaged files make the readers raise nearly anything; decoding says what is wrong
        size = None
    height, width = size or decode_image(path, links=False).size
    check_size(height, width, os.fspath(path))
    return height, width


def _told_by_header(path: str | os.PathLike) -> tuple[int, int] | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on large pictures and odd metadata
        with _open(path) as file, PIL.Image.open(file, formats=("JPEG", "PNG")) as opened:
            width, height = opened.size
            if opened.format == "PNG":  # Pillow would decode a PNG to find its orientation
                file.seek(0)
                contents = file.read()
                return None if any(mark in contents for mark in _PNG_METADATA) else (height, width)
            turned = opened.getexif().get(_ORIENTATION) in _ON_THEIR_SIDE
            return (width, height) if turned else (height, width)


def is_animated(path: str | os.PathLike) -> bool:
    """Whether a file holds several frames, of which the door for images takes the first alone; False for no image."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _open(path) as file, PIL.Image.open(file, formats=readable_formats()) as opened:
                return bool(getattr(opened, "is_animated", False)) and opened.format != "MPO"  # a photo's previews
    except Exception:  # decoding says what is wrong
        return False


class ImageFiles:
    """Decodes files when asked and keeps the last used, up to ``max_bytes`` of pixels. Threads may share it.

    Paths are those of :func:`safe_path`, resolved; what has become a link since then is refused.

    Args:
      max_bytes: of pixels.
      quarantine: counts the files that a grey image replaces; None: they are refused.
    """

    def __init__(self, max_bytes: int = 256 << 20, quarantine: Quarantine | None = None):
        self.max_bytes, self._quarantine = max_bytes, quarantine
        self._bad: set[pathlib.Path] = set()
        self._good: set[pathlib.Path] = set()
        self._animated: list[pathlib.Path] = []
        self._kept: OrderedDict[pathlib.Path, np.ndarray] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def n_bytes(self) -> int:
        """Bytes of the pixels that are kept."""
        return self._bytes

    def is_bad(self, path: pathlib.Path) -> bool:
        """Whether a grey image takes the file's place."""
        return path in self._bad

    def size(self, path: pathlib.Path) -> tuple[int, int]:
        """(height, width) as :func:`header_size`, or of the stand-in for a file that it refuses.

        Raises:
          ValueError: no readable header, and no quarantine.
        """
        with self._lock:
            if path not in self._bad:
                try:
                    size = header_size(path)
                    if path.suffix.lower() not in _STILL and path not in self._animated and is_animated(path):
                        self._animated.append(path)
                    return size
                except BadImage as error:
                    self._put_away(path, error)
            return STAND_IN_PX, STAND_IN_PX

    def tell_animated(self, owner: str | os.PathLike) -> None:
        """Warns, once for a data set, of animated images: the first frame alone is shown of each."""
        if self._animated:
            warnings.warn(
                f"of an animated image the first frame alone is shown: {owner} names {len(self._animated)}, among them "
                f"{self._animated[0]}",
                stacklevel=2,
            )

    def _put_away(self, path: pathlib.Path, error: BadImage) -> None:
        """Marks a file as bad; raises the error without a quarantine, or where rows have seen its true pixels."""
        if self._quarantine is None or path in self._good:
            raise error
        self._quarantine.add(error)
        self._bad.add(path)

    def _decode(self, path: pathlib.Path, size: tuple[int, int]) -> np.ndarray:
        if path not in self._bad:
            try:
                pixels = decode_image(path, links=False).pixels
                self._good.add(path)
                return pixels
            except BadImage as error:
                self._put_away(path, error)
        return np.full((*size, 3), STAND_IN_GREY, np.uint8)

    def pixels(self, path: pathlib.Path, size: tuple[int, int]) -> np.ndarray:
        """uint8[height, width, 3] of a file.

        Args:
          path: the file.
          size: (height, width) of what takes its place where it is bad.

        Raises:
          ValueError: it cannot be decoded, and there is no quarantine or it could be before; a link has taken its
            place.
        """
        with self._lock:  # held while decoding: the peak is one image above the bound
            if path not in self._kept:
                pixels = self._decode(path, size)
                pixels.setflags(write=False)  # shared
                self._kept[path] = pixels
                self._bytes += pixels.nbytes
            self._kept.move_to_end(path)
            pixels = self._kept[path]
            while self._bytes > self.max_bytes:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return pixels


class FileImage(Image):
    """An :class:`Image` that is a file: size known from the header, pixels decoded when asked, hash remembered.

    Args:
      files: decodes and keeps pixels.
      path: the file; its header is read at once.
      name: how the trajectory refers to it.
      owner: whose image it is, for errors.

    Raises:
      ValueError: no readable header, where the files have no quarantine.
    """

    def __init__(self, files: ImageFiles, path: pathlib.Path, name: str, owner: str):
        values = dict(name=name, _files=files, _path=path, _owner=owner, _size=files.size(path), _sha256="")
        for key, value in values.items():
            object.__setattr__(self, key, value)  # an Image is frozen

    def __repr__(self) -> str:
        return f"FileImage({str(self._path)!r})"

    @property
    def path(self) -> pathlib.Path:
        """The file."""
        return self._path

    @property
    def pixels(self) -> np.ndarray:
        """uint8[height, width, 3], read-only.

        Raises:
          ValueError: the file is damaged behind its header and there is no quarantine, or it is no more what it was.
        """
        try:
            pixels = self._files.pixels(self._path, self._size)
        except ValueError as error:
            raise ValueError(f"{self._owner}: {error}") from error
        if pixels.shape[:2] != self._size:
            raise ValueError(
                f"{self._owner}: an image must not change during a run: {self._path} was "
                f"{self._size[0]}x{self._size[1]} and is {pixels.shape[0]}x{pixels.shape[1]}"
            )
        return pixels

    @property
    def is_bad(self) -> bool:
        """Whether a grey image takes its place; damage behind the header is known once the file is decoded."""
        return self._files.is_bad(self._path)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self._size

    @property
    def sha256(self) -> str:
        """As of :class:`Image`; computed at the first use."""
        if not self._sha256:
            object.__setattr__(self, "_sha256", Image(self.pixels).sha256)
        return self._sha256


def plain_file(image: Image) -> tuple[bytes, str]:
    """(an image as a file that every reader decodes to what a policy is shown, ``.jpg`` or ``.png``).

    That is the file itself where it is an RGB JPEG or PNG that stands upright; anything else becomes a PNG.

    Raises:
      ValueError: it cannot be decoded.
    """
    pixels = image.pixels  # refuses damage behind the header
    path = getattr(image, "path", None)
    if path is not None:
        with warnings.catch_warnings(action="ignore"), _open(path) as file, PIL.Image.open(file) as opened:
            upright = opened.format in ("JPEG", "PNG") and opened.mode == "RGB"
            if upright and opened.getexif().get(_ORIENTATION, 1) == 1 and "transparency" not in opened.info:
                file.seek(0)
                return file.read(), ".jpg" if opened.format == "JPEG" else ".png"
    return encode_png(Image(pixels)), ".png"


def open_picture(files: ImageFiles, folder: pathlib.Path, name: object, where: str) -> FileImage:
    """The one image of an item, under the name ``image_1``.

    Args:
      files: decodes and keeps pixels.
      folder: may not be led out of.
      name: of the file, as it stands in the data set.
      where: the item, for errors.

    Raises:
      ValueError: no readable image of the folder; the item is named.
    """
    try:
        return FileImage(files, safe_path(folder, name), "image_1", where)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
