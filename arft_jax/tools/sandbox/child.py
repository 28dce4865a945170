"""One call, seen from inside: takes the limits on, runs the code, reports an exception, and ends."""

import contextlib
import dataclasses
import fcntl
import io
import os
import random
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Sequence
from typing import NoReturn

import cv2
import numpy as np

from arft_jax.tools.sandbox import confine, helpers, replay, wire
from arft_jax.tools.sandbox import limits as limits_lib
from arft_jax.tools.sandbox import request as request_lib

CODE_NAME = "<code>"
_NOTE_FD, _ERR_FD, _REQUEST_FD, _N_FDS = 3, 4, 5, 6
_MAX_TRACE_CHARS = 4000
_CV_OUT_OF_MEMORY = -4  # cv::Error::StsNoMem


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a worker's calls run, and under what.

    Args:
      folder: the scratch folder.
      limits: the numbers.
      hold: what is taken on.
      base_bytes: address space that the worker has mapped.
      worker_pid: the process whose death ends a call.
      isolated: whether the worker has namespaces of its own.
    """

    folder: str
    limits: limits_lib.Limits
    hold: confine.Confinement
    base_bytes: int
    worker_pid: int
    isolated: bool


def _line_of(error: BaseException) -> int | None:
    """Line of the policy's code at which an exception arose: its innermost frame there."""
    if isinstance(error, SyntaxError) and error.filename == CODE_NAME:
        return error.lineno
    line = None
    for frame, number in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_filename == CODE_NAME:
            line = number
    return line


def describe(error: BaseException) -> str:
    """The last line of the traceback, on one line, with the line number: ``NameError: .. (line 3)``."""
    if isinstance(error, SyntaxError):
        text = f"{type(error).__name__}: {error.msg}"
    else:
        text = " ".join("".join(traceback.format_exception_only(error)).split())
    line = _line_of(error)
    text = text[: wire.MAX_NOTE_CHARS]
    return text if line is None else f"{text} (line {line})"


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the policy's code uses the global generator
    cv2.setRNGSeed(seed & 0x7FFFFFFF)


class _Errors(io.TextIOBase):
    """Standard error of the code: in one stream with what is printed, in order, and once more apart."""

    encoding, errors = "utf-8", "backslashreplace"
    buffer = property(lambda self: sys.__stdout__.buffer)

    def fileno(self) -> int:
        return 2

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        sys.__stdout__.write(text)
        _tell(_ERR_FD, text)
        return len(text)

    def flush(self) -> None:
        sys.__stdout__.flush()


def _tell(fd: int, text: str) -> None:
    with contextlib.suppress(OSError):  # closed by the code: its loss
        os.write(fd, text.encode("utf-8", "backslashreplace"))


def _take_descriptors(fds: Sequence[int]) -> None:
    """Puts them at fixed numbers and closes everything else."""
    # Out of the way first: one may have the number that another is to get.
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 64) for fd in fds]
    for fd, numbers in zip(high, ((_REQUEST_FD,), (1, 2), (_NOTE_FD,), (_ERR_FD,)), strict=True):
        for number in numbers:
            os.dup2(fd, number)
    os.closerange(_N_FDS, 1024)
    null = os.open(os.devnull, os.O_RDWR)  # its flags would pass from call to call
    os.dup2(null, 0)
    os.close(null)


def _set_up(place: Place, fds: Sequence[int]) -> None:
    os.setsid()
    place.hold.guard_files()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    _take_descriptors(fds)
    os.chdir(place.folder)
    if not place.isolated:  # inside namespaces the folder is a file system of its own
        place.hold.narrow(place.folder)
    os.umask(0o077)
    os.environ.update(HOME=place.folder, TMPDIR=place.folder)
    tempfile.tempdir = place.folder
    warnings.simplefilter("ignore")
    sys.__stdout__ = io.TextIOWrapper(open(1, "wb", closefd=False), encoding="utf-8", errors="backslashreplace")
    sys.stdout, sys.stderr = sys.__stdout__, _Errors()
    sys.__stderr__ = sys.stderr
    limits_lib.apply(place.limits, place.base_bytes, place.isolated)
    place.hold.guard_calls()


def _exit_code(error: SystemExit) -> int:
    """The status with which Python would end: none is 0, what is no number is 1."""
    if error.code is None:
        return 0
    return error.code & 0xFF if isinstance(error.code, int) else wire.EXIT_ERROR


def _execute(request: dict) -> int:
    """Runs the code; returns the exit code and writes an exception's description to the note descriptor."""
    try:
        if request["cells"]:
            values = replay.replay(request["cells"], request["images"], _seed, (1, 2, _ERR_FD))
            os.write(_NOTE_FD, wire.REPLAYED)
        else:
            values = helpers.make_globals(request["images"])
        _seed(request["seed"])
        exec(compile(request["source"], CODE_NAME, "exec"), values)
        sys.__stdout__.flush()
        return 0
    except MemoryError:
        return wire.EXIT_MEMORY
    except SystemExit as error:
        code = _exit_code(error)
        if code == 0:
            sys.__stdout__.flush()
            return 0
        os.write(_NOTE_FD, describe(error).encode("utf-8", "backslashreplace"))
        return code
    except BaseException as error:
        if isinstance(error, cv2.error) and getattr(error, "code", None) == _CV_OUT_OF_MEMORY:
            return wire.EXIT_MEMORY
        note = describe(error)
        trace = "".join(traceback.format_exception(error.with_traceback(error.__traceback__.tb_next)))
        _tell(_ERR_FD, trace[-_MAX_TRACE_CHARS:])
    os.write(_NOTE_FD, note.encode("utf-8", "backslashreplace"))
    return wire.EXIT_ERROR


def _take_request() -> dict | None:
    """The request, its images written; the reason goes to standard error where that fails."""
    try:
        return request_lib.receive(_REQUEST_FD)
    except Exception as error:
        _tell(_ERR_FD, describe(error))
        raise
    finally:
        os.close(_REQUEST_FD)


def run(place: Place, fds: Sequence[int]) -> NoReturn:
    """Confines itself, waits for the request, runs it and ends the process; never returns.

    Args:
      place: where, and under what.
      fds: the channel of the request (request.py); pipes for what is printed, the note, and standard error.
    """
    code, leave = wire.EXIT_ERROR, os._exit
    try:
        confine.die_with_parent(place.worker_pid, signal.SIGKILL)
        _set_up(place, fds)
        if (request := _take_request()) is not None:
            os.write(_NOTE_FD, wire.READY)
            code = _execute(request)
    except MemoryError:
        code = wire.EXIT_MEMORY
    except BaseException:
        pass  # nothing may unwind into the forker's frames; before READY its absence tells, behind it the exit code
    finally:
        leave(code)
