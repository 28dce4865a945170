"""A directory that appears under its name complete, or not at all, however its writer ends."""

import contextlib
import fcntl
import json
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

HEADER = "index.json"  # what a directory is; its presence is what allows replacing it


def _lock(directory: pathlib.Path) -> int:
    """Makes a directory and locks it; the lock ends with the process that holds it, killed or not."""
    while True:
        directory.mkdir(exist_ok=True)
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(fd, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):  # another writer finished and gave it its final name meanwhile
            if os.path.samestat(os.fstat(fd), os.stat(directory)):
                return fd
        os.close(fd)


def _sync(directory: pathlib.Path) -> None:
    for path in [*directory.rglob("*"), directory]:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _make_readable(directory: pathlib.Path) -> None:
    for path in [*directory.rglob("*"), directory]:
        path.chmod(0o755 if path.is_dir() else 0o644)


@contextlib.contextmanager
def write_directory(path: str | os.PathLike[str], header: dict[str, Any]) -> Iterator[pathlib.Path]:
    """Hands out an empty directory; on leaving it gets its final name, and an older one of that name goes.

    A second writer of the same name waits for the first. What a killed writer left (``PATH.building``, ``PATH.old``) is
    removed by the next. Between the two renames that replace an older directory, nothing stands under the
    name for an instant; who opened files of the older one keeps them. Where a writer ended in that instant, the next
    first gives the older directory its name back: it is deleted behind a new one only.

    Args:
      path: the final name; its parent must exist.
      header: what the directory is; the caller may add to it until it leaves.

    Raises:
      ValueError: the parent is missing, or something else than such a directory stands under the name.
    """
    path = pathlib.Path(path).absolute()
    if not path.parent.is_dir():
        raise ValueError(f"the folder of an index must exist: got {path.parent}")
    if os.path.lexists(path) and not (path / HEADER).is_file():
        raise ValueError(f"an index may replace nothing but an index: {path} is something else")
    building, old = path.with_name(path.name + ".building"), path.with_name(path.name + ".old")
    fd = _lock(building)
    try:
        for left in building.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        if (old / HEADER).is_file() and not os.path.lexists(path):
            os.rename(old, path)
        shutil.rmtree(old, ignore_errors=True)  # a leftover that resists stops nobody
        try:
            yield building
            (building / HEADER).write_text(json.dumps(header), encoding="utf-8")
            _make_readable(building)
            _sync(building)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)  # the error that brought us here is the one to tell
            raise
        if path.exists():
            os.rename(path, old)
        os.rename(building, path)
        shutil.rmtree(old, ignore_errors=True)  # the new one is in place
    finally:
        os.close(fd)


def read_header(path: str | os.PathLike[str], kind: str, version: int) -> dict[str, Any]:
    """What :func:`write_directory` recorded.

    Raises:
      FileNotFoundError: there is nothing under that name.
      ValueError: it is no such directory, or of another version.
    """
    path = pathlib.Path(path)
    what = kind.replace("_", " ")
    if not path.exists():
        raise FileNotFoundError(f"no {what} at {path}: build it with launch/build_index.py")
    try:
        header = json.loads((path / HEADER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        header = None
    if not isinstance(header, dict) or header.get("kind") != kind:
        raise ValueError(f"{path} is no {what}: build one with launch/build_index.py")
    if header.get("version") != version:
        raise ValueError(f"{path} must have version {version} of the {what}: got {header.get('version')}; rebuild it")
    return header
