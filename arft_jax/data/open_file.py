"""Image files opened so that only regular files are read, over no link that was not there when the path was checked.

A check of a path says nothing of a later opening by the same path: a link may have taken the place of a file or of a
folder in between. Where a path was resolved when it was checked, no part of it is a link; it is opened part by part,
and a part that is a link by then is refused, wherever it leads.
"""

import errno
import os
import pathlib
import stat
from typing import BinaryIO

_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe would block


class _Link(ValueError):
    """A part of a path has become a link."""


def open_regular(path: str | os.PathLike, label: str, links: bool = True) -> BinaryIO:
    """A regular file, open for reading.

    Args:
      path: of the file.
      label: what messages call it.
      links: False: the path was resolved when it was checked, and holds no link.

    Raises:
      ValueError: it cannot be opened, is no regular file (a folder, a pipe), or its path leads over a link.
    """
    try:
        fd = os.open(path, _FILE) if links else _open_without_links(pathlib.Path(path).absolute(), label)
    except FileNotFoundError:
        raise ValueError(f"image file must exist: got {label}") from None
    except OSError as error:
        raise ValueError(f"image must be readable: got {label} ({error.strerror})") from error
    except _Link:
        raise
    except ValueError as error:  # a NUL or a lone surrogate
        raise ValueError(f"image must be readable: got {label} (no file can have this name)") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ValueError(f"image must be readable: got {label} (not a regular file)")
    return os.fdopen(fd, "rb")


def _open_without_links(path: pathlib.Path, label: str) -> int:
    folder = os.open(path.anchor, _FOLDER)
    try:
        for part in path.parts[1:-1]:
            inner = _open_part(part, _FOLDER, folder, label)
            os.close(folder)
            folder = inner
        return _open_part(path.name, _FILE | os.O_NOFOLLOW, folder, label)
    finally:
        os.close(folder)


def _open_part(part: str, flags: int, folder: int, label: str) -> int:
    try:
        return os.open(part, flags, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR) and _is_link(part, folder):
            raise _Link(
                f"an image path must stay in its folder: {label} leads over {part!r}, which has become a link since it "
                "was checked"
            ) from None
        raise


def _is_link(part: str, folder: int) -> bool:
    return stat.S_ISLNK(os.stat(part, dir_fd=folder, follow_symlinks=False).st_mode)
