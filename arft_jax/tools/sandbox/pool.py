"""Worker processes as the trainer holds them: their start at a level, their calls, their end."""

import concurrent.futures
import contextlib
import dataclasses
import json
import os
import queue
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence

import numpy as np

from arft_jax.tools.sandbox import levels, probe, wire
from arft_jax.tools.sandbox import readable as readable_lib
from arft_jax.tools.sandbox import request as request_lib
from arft_jax.tools.sandbox import scratch as scratch_lib
from arft_jax.tools.sandbox.limits import Limits

# What stops a call for a reason of ours: the worker is gone, silent, or talks nonsense.
INFRA_ERRORS = (EOFError, OSError, ValueError, KeyError, subprocess.SubprocessError)

_GRACE_S = 20.0  # beyond the time limit, for decoding and a busy machine, before a worker counts as dead
_START_S = 60.0
_CLOSE_S = 2.0
_PROBE_S = 30.0
_WORKER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "worker.py")


def module_paths() -> list[str]:
    """Folders from which the worker imports: it ignores user site and PYTHONPATH, this process may not."""
    found = [path for name in (*readable_lib.PACKAGES, "arft_jax") for path in readable_lib.locations(name)]
    return list(dict.fromkeys(map(os.path.dirname, found)))


def _environment(root: str) -> dict[str, str]:
    """The worker's whole environment: built, so that no secret of the trainer's can be in it.

    The hash seed is fixed, so that sets print in one order on every worker. That is why the worker starts
    with -s -P -B instead of -I, which would ignore it.
    """
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return one_thread | {
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": root or "/",
        "TMPDIR": root or "/",
        "PYTHONHASHSEED": "0",
        "MALLOC_ARENA_MAX": "2",
        "OPENCV_LOG_LEVEL": "SILENT",
    }


def find_wrapper(wrapper: str) -> str:
    """The wrapper's program, empty for none.

    Raises:
      ValueError: it is unknown or not installed.
    """
    if wrapper not in levels.WRAPPERS:
        raise ValueError(f"wrapper must be 'bwrap' or empty: got {wrapper!r} (config.tools.sandbox.wrapper)")
    program = shutil.which(wrapper) if wrapper else ""
    if program is None:
        raise ValueError(
            "wrapper 'bwrap' needs bubblewrap: install it (apt-get install bubblewrap; config.tools.sandbox.wrapper)"
        )
    return program


def _bwrap(program: str, root: str, paths: Sequence[str]) -> list[str]:
    """Bubblewrap's command line: a read-only view of what Python needs, nothing else, no network."""
    command = [program, "--unshare-all", "--die-with-parent", "--new-session", "--proc", "/proc", "--dev", "/dev"]
    command += [] if root else ["--tmpfs", "/tmp"]  # before the paths: some of them may lie in it
    prefixes = [sys.prefix, sys.base_prefix, os.path.dirname(os.path.realpath(sys.executable))]
    for path in dict.fromkeys(["/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", *prefixes, *paths]):
        command += ["--ro-bind-try", path, path]
    if root:
        return [*command, "--bind", root, root, "--chdir", root]
    return [*command, "--chdir", "/"]  # level L1 puts its own root together in /tmp


class Worker:
    """One worker process, its socket and its folder; used by one thread at a time."""

    def __init__(self, pool: "Pool", level: str):
        is_isolated = level == levels.L1  # it makes its own file system
        self.root = "" if is_isolated else tempfile.mkdtemp(prefix="worker-", dir=pool.base)
        self.n_calls = 0
        self._max_reply_bytes = 3 * pool.max_image_px + (1 << 20) + 8 * pool.limits.max_output_bytes
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        config = {
            "socket_fd": theirs.fileno(),
            "parent_pid": 0 if pool.wrapper else os.getpid(),  # a wrapper stands between
            "root": self.root,
            "paths": pool.paths,
            "readable": dataclasses.asdict(pool.readable),
            "level": level,
            "limits": pool.limits.to_json(),
            "max_image_px": pool.max_image_px,
        }
        try:
            with theirs:
                wrap = _bwrap(pool.wrapper, self.root, [*pool.paths, *pool.readable.shown]) if pool.wrapper else []
                self.process = subprocess.Popen(
                    [*wrap, sys.executable, "-s", "-P", "-B", _WORKER, json.dumps(config)],
                    pass_fds=[theirs.fileno()],
                    env=_environment(self.root),
                    cwd=self.root or "/",
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C in the terminal is the trainer's business
                )
        except BaseException:
            self.sock.close()
            scratch_lib.remove(self.root)
            raise

    def wait_ready(self) -> dict:
        """Blocks until the worker has loaded its libraries; returns what it reports of its level.

        Raises:
          DoesNotHold: if the host does not grant the level.
        """
        self.sock.settimeout(_START_S)
        report, _ = wire.receive(self.sock, 1 << 20)
        if not report["ready"]:
            raise levels.DoesNotHold(report["fault"])
        return report

    def call(self, request: request_lib.Request, timeout_s: float, max_outputs: int) -> tuple[dict, bytearray]:
        """One call and its reply; the worker hears its size, and hands over the channel to the child that runs it.

        Args:
          request: the call's own.
          timeout_s: wall-clock seconds of the code.
          max_outputs: images that are collected beside the paper's.
        """
        self.sock.settimeout(timeout_s + _GRACE_S)
        self.n_calls += 1
        header = {
            "n_given": request.n_given,
            "largest": request.largest,
            "by_name": request.head["images"] is not None,
            "is_replay": bool(request.head["cells"]),
            "max_outputs": max_outputs,
            "timeout_s": timeout_s,
        }
        wire.send(self.sock, header)
        _, fd = wire.receive_with_fd(self.sock, 1 << 10)
        with socket.socket(fileno=fd) as channel:
            channel.settimeout(timeout_s + _GRACE_S)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it ended: the reply tells how
                request.send(channel)
        return wire.receive(self.sock, self._max_reply_bytes)

    def hang_up(self) -> None:
        """Ends the call that runs, from any thread: whoever waits for the reply wakes, and the worker ends."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def close(self, wait_s: float = 0.0) -> None:
        """Asks the process to end, after ``wait_s`` forces it, and removes what is left of its folder."""
        self.process.terminate()
        self.hang_up()
        self.sock.close()
        try:
            self.process.wait(wait_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.root:
            scratch_lib.remove(self.root)


class Pool:
    """The workers and what must be freed with them; apart from the sandbox so that a finalizer can hold it.

    Args:
      limits: of every call.
      max_image_px: inclusive cap on the pixels of a reply.
      readable: further files and folders that calls may read.
      wrapper: bubblewrap's program or empty.
    """

    def __init__(self, limits: Limits, max_image_px: int, readable: Sequence[str], wrapper: str):
        self.limits = limits
        self.max_image_px = max_image_px
        self.wrapper = wrapper
        self.paths = module_paths()
        self.readable = readable_lib.of_this_interpreter(readable)
        self.level = ""
        self._base = ""
        self.idle: queue.LifoQueue[Worker | None] = queue.LifoQueue()
        self.closed = False
        self._owner_pid = os.getpid()
        self.workers: set[Worker] = set()
        self._lock = threading.Lock()
        # A worker dies with the thread that started it (PR_SET_PDEATHSIG): one lasting thread starts them all.
        self._starter = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="sandbox-starter")

    @property
    def base(self) -> str:
        """Folder of the workers' folders; made where a level needs one."""
        if not self._base:
            self._base = tempfile.mkdtemp(prefix=f"arft-sandbox-{os.getpid()}-", dir=scratch_lib.choose_root())
        return self._base

    def _start_here(self, level: str) -> Worker:
        worker = Worker(self, level)
        with self._lock:
            if not self.closed:
                self.workers.add(worker)
                return worker
        worker.close()
        raise EOFError("the sandbox is closed")

    def start(self, n_workers: int, level: str) -> tuple[list[Worker], dict]:
        """Starts workers side by side and waits until all are ready.

        Returns:
          (workers, what the last of them reports).

        Raises:
          DoesNotHold: if the host does not grant the level.
        """
        workers = [self._starter.submit(self._start_here, level).result() for _ in range(n_workers)]
        try:
            reports = [worker.wait_ready() for worker in workers]
        except (*INFRA_ERRORS, levels.DoesNotHold):
            for worker in workers:
                self.drop(worker)
            raise
        return workers, reports[-1]

    def attempt_canaries(self, worker: Worker) -> list[str]:
        """Attacks this host from inside a call; returns the attacks that were not refused."""
        with probe.baits(self.readable.unpromised) as bait:
            code = probe.source(bait, self.limits.memory_bytes)
            request = request_lib.make(code, None, {"": np.zeros((1, 1, 3), np.uint8)}, by_name=False)
            reply, _ = worker.call(request, _PROBE_S, max_outputs=0)
            leaks = probe.damage(bait)
        if not reply["was_set_up"]:
            return [*leaks, f"a call could not be set up {reply['stderr']}".rstrip()]
        if os.waitstatus_to_exitcode(reply["status"]) != probe.HELD:
            leaks += probe.read_note(reply["note"]) or [f"a canary ended with status {reply['status']}"]
        return leaks

    def drop(self, worker: Worker) -> None:
        """Ends a worker that cannot be trusted to answer any more."""
        with self._lock:
            self.workers.discard(worker)
        worker.close()

    def close(self) -> None:
        """Ends all workers, also under calls that run; safe to repeat."""
        with self._lock:
            if self.closed or os.getpid() != self._owner_pid:
                return
            self.closed = True
            workers, self.workers = list(self.workers), set()
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.close(_CLOSE_S)
        self._starter.shutdown(wait=True)
        if self._base:
            scratch_lib.remove(self._base)
