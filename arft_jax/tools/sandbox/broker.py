"""The sandbox as the trainer calls it: many threads, a few workers, one verdict a call."""

import queue
import re
import sys
import time
import weakref
from collections.abc import Mapping, Sequence

import numpy as np

from arft_jax.tools.call import Call, Cancelled
from arft_jax.tools.sandbox import levels, verdict
from arft_jax.tools.sandbox import request as request_lib
from arft_jax.tools.sandbox.limits import Limits
from arft_jax.tools.sandbox.pool import INFRA_ERRORS, Pool, Worker, find_wrapper
from arft_jax.trajectory import Image, Observation, ToolStatus

MAX_SOURCE_CHARS = 200_000  # of the code, and of the earlier cells together
MAX_IMAGES = 32
MAX_OUTPUTS = 8
_FLOOD_FACTOR = 64  # printed bytes, as a multiple of what is kept, at which a call is ended
_MAX_CALLS = 5000  # of one worker, then a fresh one takes its place
_TRIES = 2
_LOOK_S = 0.1  # how often a call that waits for a worker looks whether it is given up
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,31}")
_RESERVED = ("images", "show", "output_")


def _check_image(image: Image) -> None:
    pixels = image.pixels
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise ValueError(f"image must be uint8[height, width, 3]: got {pixels.dtype}{list(pixels.shape)}")


# What a reply tells of a call, as the fields of a Report from the third on.
_TOLD = ("stderr", "seconds", "cpu_s", "max_rss_bytes", "was_replayed")


def _named(images: Image | Mapping[str, Image]) -> dict[str, Image]:
    """Images by name; the only one of the paper's protocol has the empty name."""
    if isinstance(images, Image):
        named = {"": images}
    else:
        named = dict(images)
        if len(named) > MAX_IMAGES:
            raise ValueError(f"images must be at most {MAX_IMAGES}: got {len(named)}")
        for name in named:
            if not _NAME.fullmatch(name) or name.startswith(_RESERVED):
                raise ValueError(
                    f"an image's name must be a letter and at most 31 letters, digits or _, and start with none of "
                    f"{', '.join(_RESERVED)}: got {name!r}"
                )
    for image in named.values():
        _check_image(image)
    return named


def _make_limits(timeout_s: float, memory_mb: int, max_output_bytes: int, max_image_px: int) -> Limits:
    max_file_bytes = max(8 << 20, 4 * max_image_px)
    return Limits(
        timeout_s=timeout_s,
        memory_bytes=memory_mb << 20,
        max_output_bytes=max_output_bytes,
        max_flood_bytes=_FLOOD_FACTOR * max_output_bytes,
        max_file_bytes=max_file_bytes,
        max_scratch_bytes=4 * max_file_bytes,
    )


class PythonSandbox:
    """Runs Python source over images in a separate process with time, memory and output limits.

    Two protocols. Given one image, the paper's: the code finds ``path_to_input_image.jpg`` (lossless, under
    that name), writes ``path_to_output_image.jpg``, prints, or both. Given images by name, a richer one on top: each
    lies there as ``NAME.png`` too and as a PIL image in the variables ``NAME`` and ``images["NAME"]``, and the last
    one, the newest, under the paper's name. What the code passes to ``show(image)``, or writes as ``output_*.png``,
    comes back behind the paper's output, several in order.

    Random generators are seeded from code and images: the same call gives the same result.

    >>> with PythonSandbox() as sandbox:  # doctest: +SKIP
    ...     sandbox.run("print(6 * 7)", image).text
    '42'

    Attributes:
      level: what holds model-written code: ``L1``, ``L0``, ``outer`` or ``unsafe`` (levels.py).
      line: the same with its parts, one line for a log.
      stamp: the same in a few words, to be recorded with whatever is made with it.
      leaks: attacks of the probe that were not refused; none at L1 and L0.

    Args:
      n_workers: calls that run at the same time.
      timeout_s: wall-clock seconds of one call.
      memory_mb: MiB of address space of one call, on top of the loaded libraries.
      max_output_bytes: printed bytes that reach the policy; 64 times as much ends the call.
      max_image_px: inclusive cap on height times width of the output images, each and together.
      level: ``auto`` (the strongest that this host grants), one that must hold, or ``outer:NAME``, declared.
      override: where it does not hold, run model-written code all the same (``unsafe``).
      wrapper: ``bwrap`` starts each worker inside bubblewrap, around the level; empty for none.
      readable: further files and folders, fonts for example, that calls may read.

    Raises:
      ValueError: for a number below its minimum, an unknown level, a missing package, or a system other than Linux.
      NoneHolds: (a RuntimeError) if no level holds; the message says what to do.
      RuntimeError: if a worker does not come up.
    """

    def __init__(
        self,
        n_workers: int = 2,
        timeout_s: float = 5.0,
        memory_mb: int = 512,
        max_output_bytes: int = 4096,
        max_image_px: int = 16_777_216,
        level: str = levels.AUTO,
        wrapper: str = "",
        readable: Sequence[str] = (),
        override: bool = False,
    ):
        minima = {"n_workers": 1, "memory_mb": 16, "max_output_bytes": 1, "max_image_px": 1}
        for name, minimum in minima.items():
            if locals()[name] < minimum:
                raise ValueError(f"{name} must be at least {minimum}: got {locals()[name]}")
        if not timeout_s > 0:
            raise ValueError(f"timeout_s must be above 0: got {timeout_s}")
        if sys.platform != "linux":
            raise ValueError(f"the Python sandbox needs Linux: got {sys.platform}")
        candidates, declared = levels.candidates(level, override)
        self._limits = _make_limits(timeout_s, memory_mb, max_output_bytes, max_image_px)
        self._pool = Pool(self._limits, max_image_px, readable, find_wrapper(wrapper))
        self._finalizer = weakref.finalize(self, self._pool.close)
        try:
            self._open(n_workers, candidates, declared, wrapper)
        except BaseException:
            self.close()
            raise

    @property
    def workers(self) -> set[Worker]:
        """The worker processes that there are."""
        return self._pool.workers

    @property
    def n_idle(self) -> int:
        """Workers that wait for a call."""
        return self._pool.idle.qsize()

    def _open(self, n_workers: int, candidates: Sequence[str], declared: str, wrapper: str) -> None:
        """Starts the workers at the first level that holds against the canaries."""
        faults = {}
        for level in candidates:
            try:
                workers, report = self._pool.start(n_workers, level)
                leaks = self._pool.attempt_canaries(workers[0])
            except levels.DoesNotHold as error:
                faults[level] = str(error)
                continue
            except INFRA_ERRORS as error:
                raise RuntimeError(
                    f"a Python sandbox worker did not start ({type(error).__name__}: {error}); try: "
                    f"{sys.executable} -s -P -c 'import numpy, PIL, cv2'"
                ) from error
            if leaks and level in (levels.L1, levels.L0):
                faults[level] = f"not refused: {', '.join(leaks)}"
                for worker in workers:
                    self._pool.drop(worker)
                continue
            self.level, self.leaks = level, tuple(leaks)
            self.line = levels.line(level, report, declared, wrapper, leaks)
            self.stamp = levels.stamp(level, declared, wrapper)
            for worker in workers:
                self._pool.idle.put(worker)
            return
        raise levels.NoneHolds(levels.remedy(faults))

    def _wait_for_worker(self, call: Call) -> Worker | None:
        while not call.cancelled:
            try:
                return self._pool.idle.get(timeout=_LOOK_S)
            except queue.Empty:
                pass
        raise Cancelled

    def _attempt(self, request: request_lib.Request, call: Call) -> tuple[dict, bytearray]:
        """One try on one worker; a worker that fails is replaced at the next try, not here.

        A call that is given up takes its worker with it, which ends the code at once.
        """
        worker = self._wait_for_worker(call)
        try:
            if worker is None:
                (worker,), _ = self._pool.start(1, self.level)
            with call.ended_by(worker.hang_up):
                result = worker.call(request, self._limits.timeout_s, MAX_OUTPUTS)
            if call.cancelled:  # its socket may be shut
                raise Cancelled
            if worker.n_calls >= _MAX_CALLS:
                self._pool.drop(worker)
                worker = None
            return result
        except BaseException:
            if worker is not None:
                self._pool.drop(worker)
            worker = None
            raise
        finally:
            self._pool.idle.put(worker)

    def run(self, source: str, images: Image | Mapping[str, Image], call: Call | None = None) -> Observation:
        """Runs the code and returns what the policy sees; see :meth:`report`."""
        return self.report(source, images, call=call).observation

    def report(
        self,
        source: str,
        images: Image | Mapping[str, Image],
        cells: Sequence[tuple[str, int]] | None = None,
        call: Call | None = None,
    ) -> verdict.Report:
        """Runs the code and tells everything about the call; never raises for what the code does.

        Blocks until a worker is free and the call has ended. Many threads may call at once. A worker that
        dies is an infrastructure failure, not the policy's: one more try on a fresh one, then ``ToolStatus.INFRA``.

        Args:
          source: Python.
          images: uint8[height, width, 3] pixels: one image, or images by name, oldest first, perhaps none.
          cells: earlier code of the same session, run again first, unheard (session.py), each with the number of images
            that there were; None for no session.
          call: ends the code where it is given up; its deadline counts for nothing, the sandbox has its own.

        Returns:
          The observation (text, output images, status, seconds) and what the call took.

        Raises:
          ValueError: if an image's pixels have another shape or type, a name is unfit, or a session's image has none.
          Cancelled: the call is given up.
        """
        started = time.monotonic()
        named = _named(images)
        if cells is not None and isinstance(images, Image):
            raise ValueError("a session's images must have names: got one image without")
        if max(len(source), sum(len(cell) for cell, _ in cells or ())) > MAX_SOURCE_CHARS:
            late = time.monotonic() - started
            return verdict.Report(Observation(verdict.LONG_SOURCE, (), ToolStatus.ERROR, late))
        pixels = {name: image.pixels for name, image in named.items()}
        request = request_lib.make(source, cells, pixels, by_name=not isinstance(images, Image))
        call = Call(float("inf")) if call is None else call
        fault = "the sandbox is closed"
        for _ in range(_TRIES):
            if self._pool.closed:
                break
            try:
                reply, content = self._attempt(request, call)
                observation = verdict.judge(reply, content, self._limits, time.monotonic() - started)
                return verdict.Report(observation, verdict.exit_text(reply), *(reply[name] for name in _TOLD))
            # RuntimeError: the starter is shut down. DoesNotHold: the host grants the level no longer.
            except (*INFRA_ERRORS, RuntimeError, levels.DoesNotHold) as error:
                if call.cancelled:
                    raise Cancelled from None
                fault = f"{type(error).__name__}: {error}"
        late = time.monotonic() - started
        return verdict.Report(Observation(f"sandbox fault: {fault}", (), ToolStatus.INFRA, late))

    @property
    def timeout_s(self) -> float:
        """Wall-clock seconds of one call."""
        return self._limits.timeout_s

    def close(self) -> None:
        """Ends the workers and removes their folders; calls that run end as ``ToolStatus.INFRA``."""
        self._finalizer()

    def __enter__(self) -> "PythonSandbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
