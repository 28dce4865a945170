"""The manifest that makes a checkpoint's step count: its number, and the size and sha256 of each of its files.

It is written last and by rename, so a step without one was never completed, and a step whose files or whose number are
not those of the manifest is not the step that was saved: a copy under another number, a damaged one, or none at all.
"""

import errno
import hashlib
import json
import os
import pathlib
import stat
from typing import Any

MANIFEST = "manifest.json"
# Of versions that did not write the number: such a step may be a copy of another one, and nothing would tell.
NO_STEP = "its manifest names no step, as those of earlier versions of this package"
_TEMPORARY = MANIFEST + ".tmp"
_MAX_BYTES = 16 * 2**20  # a hundred thousand files
_SHOWN = 100  # characters of a file's name


def _sha256(path: pathlib.Path, *, sync: bool = False) -> str:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if sync:
            os.fsync(file.fileno())
    return digest


def _sync_folder(folder: pathlib.Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems have no such thing for folders
            raise
    finally:
        os.close(fd)


def _files(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    return {
        str(path.relative_to(folder)): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (MANIFEST, _TEMPORARY)
    }


def seal(folder: pathlib.Path, step: int) -> None:
    """Writes the manifest; when this returns, the step is on the disk, not only in the system's memory of it.

    Args:
      folder: of the step, complete.
      step: its number.
    """
    files = {name: [path.stat().st_size, _sha256(path, sync=True)] for name, path in _files(folder).items()}
    temporary = folder / _TEMPORARY
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump({"step": step, "files": files}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(folder / MANIFEST)
    for below in (*(path for path in folder.rglob("*") if path.is_dir()), folder, folder.parent):
        _sync_folder(below)


def is_sealed(folder: pathlib.Path) -> bool:
    """Whether a step was completed; whether it still is what it was then, :func:`fault_of` says."""
    return (folder / MANIFEST).is_file()


def fault_of(folder: pathlib.Path, step: int) -> str | None:
    """What is wrong with a step's files, or None; :data:`NO_STEP` where all but the number is as it must be."""
    try:
        manifest = _read(folder / MANIFEST)
    except FileNotFoundError:
        return "it was never completed (no manifest)"
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else type(error).__name__
        return f"its manifest is unreadable ({reason})"
    if fault := _malformed(manifest):
        return f"its manifest is malformed: {fault}"
    if manifest.get("step", step) != step:
        return f"its manifest is that of step {str(manifest['step'])[:_SHOWN]}"
    try:
        fault = _differing(manifest["files"], _files(folder))
    except OSError as error:
        return f"its files cannot be read ({error.strerror})"
    return fault or (None if "step" in manifest else NO_STEP)


def _read(path: pathlib.Path) -> Any:
    info = path.stat()
    if not stat.S_ISREG(info.st_mode):  # a pipe would be waited for
        raise OSError(0, "not a regular file")
    if info.st_size > _MAX_BYTES:
        raise OSError(0, f"{info.st_size} bytes")
    return json.loads(path.read_text(encoding="utf-8"))


def _malformed(manifest: Any) -> str | None:
    """What of the shape {"step": int, "files": {str: [int, str]}} a manifest lacks, or None; the step may be absent."""
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        return "it must be an object with an object `files`"
    if type(manifest.get("step", 0)) is not int:  # True is an int too, but none that was written
        return f"`step` must be a whole number: got {type(manifest['step']).__name__}"
    for name, entry in manifest["files"].items():
        if not isinstance(entry, list) or [type(value) for value in entry] != [int, str]:
            return f"{_shown(name)} must be a size and a hash"
    return None


def _differing(wanted: dict[str, list], found: dict[str, pathlib.Path]) -> str | None:
    # A name that leads out of the folder is none of those that are found in it.
    if names := sorted(wanted.keys() ^ found.keys()):
        return f"{_shown(names[0])} is {'missing' if names[0] in wanted else 'not in the manifest'}"
    for name, (size, digest) in wanted.items():
        n_bytes = found[name].stat().st_size
        if n_bytes != size:
            return f"{_shown(name)} has {n_bytes} bytes instead of {str(size)[:_SHOWN]}"
        if _sha256(found[name]) != digest:
            return f"{_shown(name)} has other contents than were written"
    return None


def _shown(name: str) -> str:
    """A file's name as it may stand in a log."""
    return ascii(name[:_SHOWN])[1:-1]
