"""Runs a session's earlier cells again, inside a call's own process, for their variables (session.py).

Nothing of them is heard, and each meets what it met at first: the images of its time, the newest of them under the
paper's name as well, no output of an earlier cell, its own seed, the call's folder, a whole standard output.
"""

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence

import PIL.Image

from arft_jax import protocol
from arft_jax.tools.sandbox import helpers, request, scratch

_HIDDEN = ".later_"  # stands before the names of images that a cell did not have


@contextlib.contextmanager
def _unheard(fds: Sequence[int]) -> Iterator[None]:
    """Lets nothing out of what is written to the descriptors."""
    sys.stdout.flush()
    kept = {fd: os.dup(fd) for fd in fds}
    for fd in fds:
        os.dup2(0, fd)
    try:
        yield
    finally:
        with contextlib.suppress(Exception):  # closed by the code: nothing waits in it
            sys.__stdout__.flush()
        for fd, copy in kept.items():
            os.dup2(copy, fd)
            os.close(copy)


def _tidy(folder: str, names: Sequence[str]) -> None:
    """Makes the folder what a cell expects."""
    os.chdir(folder)
    for name in (protocol.INPUT_NAME, protocol.OUTPUT_NAME, *scratch.output_names(".")):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
    if names:
        shutil.copyfile(request.file_of(names[-1]), protocol.INPUT_NAME)


def _stop_timers() -> None:
    """A cell's timers ended with its process, when it ran at first."""
    for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
        signal.setitimer(timer, 0)


def replay(cells: Sequence[dict], names: Sequence[str], seed: Callable[[int], None], fds: Sequence[int]) -> dict:
    """Runs the cells; whatever one of them raises, but an exit, goes to the caller.

    Args:
      cells: at least one, oldest first: ``source``, ``seed``, and ``n_images``, of which the first so many names are.
      names: of all images, which lie in the current folder, in order of arrival.
      seed: seeds the generators.
      fds: where nothing may be heard.

    Returns:
      The variables, for the new code.
    """
    n, folder, out, err = cells[0]["n_images"], os.getcwd(), sys.stdout, sys.stderr
    for name in names[n:]:
        os.rename(request.file_of(name), _HIDDEN + name)
    values = helpers.make_globals(names[:n])
    images = values["images"]

    def arrive(n_images: int) -> None:
        os.chdir(folder)
        for name in names[n:n_images]:
            os.rename(_HIDDEN + name, request.file_of(name))
            images[name] = values[name] = PIL.Image.open(request.file_of(name))
        _tidy(folder, names[:n_images])

    with _unheard(fds):
        for cell in cells:
            arrive(cell["n_images"])
            n = cell["n_images"]
            seed(cell["seed"])
            with contextlib.suppress(SystemExit):
                exec(compile(cell["source"], "<earlier>", "exec"), values)
            sys.stdout, sys.stderr = out, err
            out.flush()
            _stop_timers()
    arrive(len(names))
    return values
