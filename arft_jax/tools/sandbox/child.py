"""One call, seen from inside: takes the limits on, runs the code, reports an exception, and ends."""

import io
import json
import os
import random
import signal
import sys
import tempfile
import traceback
import warnings
import zlib

import cv2
import numpy as np

from arft_jax.tools.sandbox import confine, wire
from arft_jax.tools.sandbox import limits as limits_lib

CODE_NAME = "<code>"
_NOTE_FD = 3
_CV_OUT_OF_MEMORY = -4  # cv::Error::StsNoMem


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


def seed_of(source: str, pixels: bytes) -> int:
    """Seed from the request: one code on one image gives one result, on any worker, after any restart."""
    return zlib.crc32(pixels, zlib.crc32(source.encode("utf-8", "surrogatepass")))


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the policy's code uses the global generator
    cv2.setRNGSeed(seed & 0x7FFFFFFF)


def _set_up(scratch: str, out_fd: int, note_fd: int, limits: limits_lib.Limits, base_bytes: int) -> None:
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    os.dup2(out_fd, 1)
    os.dup2(out_fd, 2)
    if note_fd != _NOTE_FD:
        os.dup2(note_fd, _NOTE_FD)
    os.closerange(_NOTE_FD + 1, 1024)
    os.chdir(scratch)
    os.umask(0o077)
    os.environ.update(HOME=scratch, TMPDIR=scratch)
    tempfile.tempdir = scratch
    warnings.simplefilter("ignore")
    sys.stdout = io.TextIOWrapper(open(1, "wb", closefd=False), encoding="utf-8", errors="backslashreplace")
    sys.stderr = sys.stdout
    confine.shut_privileges()
    limits_lib.apply(limits, base_bytes, can_fork=not confine.forbid_fork())


def _execute(source: str) -> int:
    """Runs the code; returns the exit code and writes an exception's description to the note descriptor."""
    try:
        exec(compile(source, CODE_NAME, "exec"), {"__name__": "__main__"})
        sys.stdout.flush()
        return 0
    except MemoryError:
        return wire.EXIT_MEMORY
    except SystemExit as error:
        if error.code in (None, 0):
            sys.stdout.flush()
            return 0
        note = describe(error)
    except BaseException as error:
        if isinstance(error, cv2.error) and getattr(error, "code", None) == _CV_OUT_OF_MEMORY:
            return wire.EXIT_MEMORY
        note = describe(error)
    os.write(_NOTE_FD, note.encode("utf-8", "backslashreplace"))
    return wire.EXIT_ERROR


def run(
    go_fd: int, out_fd: int, note_fd: int, scratch: str, limits: limits_lib.Limits, base_bytes: int, worker_pid: int
) -> None:
    """Waits for the request on ``go_fd``, runs it and ends the process; never returns.

    Args:
      go_fd: read end; one JSON object ``{"source", "seed"}`` and then end of file.
      out_fd: write end for what is printed.
      note_fd: write end for an exception's description.
      scratch: this call's folder.
      limits: the numbers.
      base_bytes: address space that the worker has mapped.
      worker_pid: the process whose death ends this one.
    """
    code = wire.EXIT_ERROR
    try:
        confine.die_with_parent(worker_pid, signal.SIGKILL)
        with open(go_fd, "rb", closefd=False) as go:
            request = json.loads(go.read() or b"null")
        if request is not None:
            _set_up(scratch, out_fd, note_fd, limits, base_bytes)
            _seed(request["seed"])
            os.write(_NOTE_FD, wire.READY)
            code = _execute(request["source"])
    except MemoryError:
        code = wire.EXIT_MEMORY
    except BaseException:
        pass  # READY is missing, which tells it; nothing may unwind into the worker's frames
    finally:
        os._exit(code)
