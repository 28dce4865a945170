"""The trainer's side of the sandbox: a pool of workers that threads share."""

import concurrent.futures
import contextlib
import importlib.util
import json
import os
import queue
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref

import numpy as np

from arft_jax.tools.sandbox import scratch as scratch_lib
from arft_jax.tools.sandbox import verdict, wire
from arft_jax.tools.sandbox.limits import Limits
from arft_jax.trajectory import Image, Observation, ToolStatus

MAX_SOURCE_CHARS = 200_000
_GRACE_S = 10.0  # beyond the time limit, for a busy machine, before a worker counts as dead
_START_S = 60.0
_CLOSE_S = 2.0
_FLOOD_FACTOR = 64  # printed bytes, as a multiple of what is kept, at which a call is ended
_TRIES = 2
_WORKER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "worker.py")
# What stops a call for a reason of ours: the worker is gone, silent, or talks nonsense.
_INFRA_ERRORS = (EOFError, OSError, ValueError, KeyError, subprocess.SubprocessError)


def _module_paths() -> list[str]:
    """Folders from which the worker imports: it ignores user site and PYTHONPATH, this process may not."""
    paths = []
    for name in ("numpy", "PIL", "cv2", "arft_jax"):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise ValueError(f"the Python sandbox needs the package {name}: not found")
        path = os.path.dirname(os.path.dirname(os.path.abspath(spec.origin)))
        if path not in paths:
            paths.append(path)
    return paths


def _environment(root: str) -> dict[str, str]:
    """The worker's whole environment: built, so that no secret of the trainer's can be in it.

    The hash seed is fixed, so that sets print in one order on every worker. That is why the worker starts
    with -s -P -B instead of -I, which would ignore it.
    """
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return one_thread | {
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": root,
        "TMPDIR": root,
        "PYTHONHASHSEED": "0",
        "MALLOC_ARENA_MAX": "2",
        "OPENCV_LOG_LEVEL": "SILENT",
    }


class _Worker:
    """One worker process, its socket and its folder; used by one thread at a time."""

    def __init__(self, base: str, limits: Limits, paths: list[str]):
        self.root = tempfile.mkdtemp(prefix="worker-", dir=base)
        self._max_reply_bytes = limits.max_file_bytes + (1 << 20) + 8 * limits.max_output_bytes
        self._timeout_s = limits.timeout_s + _GRACE_S
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        config = {
            "socket_fd": theirs.fileno(),
            "parent_pid": os.getpid(),
            "root": self.root,
            "paths": paths,
            "limits": limits.to_json(),
        }
        try:
            with theirs:
                self.process = subprocess.Popen(
                    [sys.executable, "-s", "-P", "-B", _WORKER, json.dumps(config)],
                    pass_fds=[theirs.fileno()],
                    env=_environment(self.root),
                    cwd=self.root,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C in the terminal is the trainer's business
                )
        except BaseException:
            self.sock.close()
            scratch_lib.remove(self.root)
            raise

    def wait_ready(self) -> None:
        """Blocks until the worker has loaded its libraries; raises one of the infra errors otherwise."""
        self.sock.settimeout(_START_S)
        wire.receive(self.sock, 1 << 20)

    def call(self, header: dict, pixels: bytes) -> tuple[dict, bytes]:
        """One request and its reply."""
        self.sock.settimeout(self._timeout_s)
        wire.send(self.sock, header, pixels)
        reply, content = wire.receive(self.sock, self._max_reply_bytes)
        return reply, bytes(content)

    def close(self, wait_s: float = 0.0) -> None:
        """Asks the process to end, after ``wait_s`` forces it, and removes what is left of its folder."""
        self.process.terminate()
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)  # also wakes a thread that waits for a reply
        self.sock.close()
        try:
            self.process.wait(wait_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        scratch_lib.remove(self.root)


class _Pool:
    """The workers and what must be freed with them; apart from the sandbox so that a finalizer can hold it."""

    def __init__(self, limits: Limits):
        self.limits = limits
        self.paths = _module_paths()
        self.base = tempfile.mkdtemp(prefix=f"arft-sandbox-{os.getpid()}-", dir=scratch_lib.choose_root())
        self.idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        self.closed = False
        self._owner_pid = os.getpid()
        self._workers: set[_Worker] = set()
        self._lock = threading.Lock()
        # A worker dies with the thread that started it (PR_SET_PDEATHSIG): one lasting thread starts them all.
        self._starter = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="sandbox-starter")

    def _start_here(self) -> _Worker:
        worker = _Worker(self.base, self.limits, self.paths)
        with self._lock:
            if not self.closed:
                self._workers.add(worker)
                return worker
        worker.close()
        raise EOFError("the sandbox is closed")

    def start(self, n_workers: int) -> list[_Worker]:
        """Starts workers side by side and waits until all are ready."""
        workers = [self._starter.submit(self._start_here).result() for _ in range(n_workers)]
        for worker in workers:
            try:
                worker.wait_ready()
            except _INFRA_ERRORS:
                for other in workers:
                    self.drop(other)
                raise
        return workers

    def drop(self, worker: _Worker) -> None:
        """Ends a worker that cannot be trusted to answer any more."""
        with self._lock:
            self._workers.discard(worker)
        worker.close()

    def close(self) -> None:
        """Ends all workers, also under calls that run; safe to repeat."""
        with self._lock:
            if self.closed or os.getpid() != self._owner_pid:
                return
            self.closed = True
            workers, self._workers = list(self._workers), set()
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.close(_CLOSE_S)
        self._starter.shutdown(wait=True)
        scratch_lib.remove(self.base)


class PythonSandbox:
    """Runs Python source over one image in a separate process with time, memory and output limits.

    The code finds the image as ``path_to_input_image.jpg`` (lossless, under that name), writes
    ``path_to_output_image.jpg``, prints, or both. Random generators are seeded from code and image: the same
    call gives the same result.

    >>> with PythonSandbox() as sandbox:  # doctest: +SKIP
    ...     sandbox.run("print(6 * 7)", image).text
    '42'

    Args:
      n_workers: calls that run at the same time.
      timeout_s: wall-clock seconds of one call.
      memory_mb: MiB of address space of one call, on top of the loaded libraries.
      max_output_bytes: printed bytes that reach the policy; 64 times as much ends the call.
      max_image_px: inclusive cap on height times width of the output image.

    Raises:
      ValueError: for a number below its minimum, a missing package, or a system other than Linux.
      RuntimeError: if a worker does not come up.
    """

    def __init__(
        self,
        n_workers: int = 2,
        timeout_s: float = 5.0,
        memory_mb: int = 512,
        max_output_bytes: int = 4096,
        max_image_px: int = 16_777_216,
    ):
        minima = {"n_workers": 1, "memory_mb": 16, "max_output_bytes": 1, "max_image_px": 1}
        for name, minimum in minima.items():
            if locals()[name] < minimum:
                raise ValueError(f"{name} must be at least {minimum}: got {locals()[name]}")
        if not timeout_s > 0:
            raise ValueError(f"timeout_s must be above 0: got {timeout_s}")
        if sys.platform != "linux":
            raise ValueError(f"the Python sandbox needs Linux: got {sys.platform}")
        max_file_bytes = max(8 << 20, 4 * max_image_px)
        self._limits = Limits(
            timeout_s=timeout_s,
            memory_bytes=memory_mb << 20,
            max_output_bytes=max_output_bytes,
            max_flood_bytes=_FLOOD_FACTOR * max_output_bytes,
            max_file_bytes=max_file_bytes,
            max_scratch_bytes=4 * max_file_bytes,
        )
        self._max_image_px = max_image_px
        self._pool = _Pool(self._limits)
        self._finalizer = weakref.finalize(self, self._pool.close)
        try:
            for worker in self._pool.start(n_workers):
                self._pool.idle.put(worker)
        except _INFRA_ERRORS as error:
            self.close()
            raise RuntimeError(
                f"a Python sandbox worker did not start ({type(error).__name__}: {error}); try: "
                f"{sys.executable} -s -P -c 'import numpy, PIL, cv2'"
            ) from error

    def _attempt(self, header: dict, pixels: bytes) -> tuple[dict, bytes]:
        """One try on one worker; a worker that fails is replaced at the next try, not here."""
        worker = self._pool.idle.get()
        try:
            if worker is None:
                (worker,) = self._pool.start(1)
            return worker.call(header, pixels)
        except BaseException:
            if worker is not None:
                self._pool.drop(worker)
            worker = None
            raise
        finally:
            self._pool.idle.put(worker)

    def run(self, source: str, image: Image) -> Observation:
        """Runs the code and returns what the policy sees; never raises for what the code does.

        Blocks until a worker is free and the call has ended. Many threads may call at once. A worker that
        dies is our fault, not the policy's: one more try on a fresh one, then ``ToolStatus.INFRA``.

        Args:
          source: Python.
          image: uint8[height, width, 3] pixels.

        Returns:
          Text (what was printed, or what went wrong), the output image if one was written, status, seconds.

        Raises:
          ValueError: if the image's pixels have another shape or type.
        """
        started = time.monotonic()
        pixels = image.pixels
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
            raise ValueError(f"image must be uint8[height, width, 3]: got {pixels.dtype}{list(pixels.shape)}")
        if len(source) > MAX_SOURCE_CHARS:
            return Observation(verdict.LONG_SOURCE, (), ToolStatus.ERROR, time.monotonic() - started)
        header = {"source": source, "height": pixels.shape[0], "width": pixels.shape[1]}
        fault = "the sandbox is closed"
        for _ in range(_TRIES):
            if self._pool.closed:
                break
            try:
                reply, content = self._attempt(header, pixels.tobytes())
                seconds = time.monotonic() - started
                return verdict.judge(reply, content, self._limits, self._max_image_px, seconds)
            except (*_INFRA_ERRORS, RuntimeError) as error:  # RuntimeError: the starter is shut down
                fault = f"{type(error).__name__}: {error}"
        return Observation(f"sandbox fault: {fault}", (), ToolStatus.INFRA, time.monotonic() - started)

    def close(self) -> None:
        """Ends the workers and removes their folders; calls that run end as ``ToolStatus.INFRA``."""
        self._finalizer()

    def __enter__(self) -> "PythonSandbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
