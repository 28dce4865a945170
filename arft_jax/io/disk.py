"""Files that cannot be written: one sentence with the place and the key to change, in place of a traceback."""

import contextlib
import errno
import os
import pathlib
import re
from collections.abc import Iterator

# No reading fails with these, whatever file they are about.
_OF_WRITES = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
_TENSORSTORE = re.compile(r"\[os_error_code='(\d+)'\]")  # how the errors of a checkpoint's arrays end


def write_fault(error: BaseException | None, directory: str | os.PathLike) -> str | None:
    """What kept a file from being written, in the operating system's words; None where an error is of another kind.

    Args:
      error: with those that it was raised from.
      directory: an error of access counts where it is about a file in here.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            if error.errno in _OF_WRITES or _is_below(error.filename, directory):
                return os.strerror(error.errno) + (f": {error.filename}" if error.filename else "")
        elif (found := _TENSORSTORE.search(str(error))) and int(found[1]) in _OF_WRITES:
            return os.strerror(int(found[1]))
        error = error.__cause__ or error.__context__
    return None


def _is_below(path: str | bytes | int | None, directory: str | os.PathLike) -> bool:
    if not isinstance(path, (str, os.PathLike)):
        return False
    return pathlib.Path(path).absolute().is_relative_to(pathlib.Path(directory).absolute())


@contextlib.contextmanager
def naming_write_faults(what: str, directory: str | os.PathLike, key: str) -> Iterator[None]:
    """Turns a full disk, a read-only one or a missing permission into one sentence; lets all other errors pass.

    Args:
      what: is written, "the work directory".
      directory: where it is.
      key: to change.

    Raises:
      ValueError: a file could not be written.
    """
    try:
        yield
    except Exception as error:
        fault = write_fault(error, directory)
        if fault is None:
            raise
        raise ValueError(f"{what} must be writable: got {directory} ({fault}) ({key})") from error
