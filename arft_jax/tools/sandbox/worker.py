"""The worker: a small server process that runs one call at a time in a child forked ahead of it.

Started by the broker as ``python -s -P -B worker.py CONFIG``; it imports what policies use (numpy, PIL,
OpenCV) once. It holds nothing of the trainer's: no environment, no descriptor but its socket. It ends when
that socket closes, when its parent dies, or on SIGTERM, and removes its scratch folders on the way.
"""

import contextlib
import dataclasses
import gc
import json
import os
import select
import signal
import socket
import sys
import tempfile
import time
from typing import NoReturn

_PATHS = [path for path in json.loads(sys.argv[1])["paths"] if path not in sys.path] if __name__ == "__main__" else []
sys.path.extend(_PATHS)  # where numpy, PIL, cv2 and this package lie for the trainer

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import numpy.fft  # noqa: E402
import numpy.linalg  # noqa: E402
import numpy.random  # noqa: E402
from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps, ImageStat  # noqa: E402, F401

from arft_jax import protocol  # noqa: E402
from arft_jax.tools.sandbox import child, confine, wire  # noqa: E402
from arft_jax.tools.sandbox import limits as limits_lib  # noqa: E402
from arft_jax.tools.sandbox import scratch as scratch_lib  # noqa: E402

MAX_REQUEST_BYTES = 1 << 30
_NOTE_BYTES = 4096
_WATCH_S = 0.02  # how often a running call's scratch folder is measured
_READ_BYTES = 65536
_ORPHAN_S = 1.0


class _Gone(Exception):
    """The broker closed the socket in the midst of a call."""


@dataclasses.dataclass
class _Spare:
    """A child that waits for its request; descriptors are this side's ends."""

    pid: int
    pid_fd: int
    go_fd: int
    out_fd: int
    note_fd: int
    folder: str
    folder_fd: int


@dataclasses.dataclass
class _Printed:
    """What a child printed: the first ``cap`` bytes, and how much there was."""

    cap: int
    kept: bytearray = dataclasses.field(default_factory=bytearray)
    n_bytes: int = 0

    def read(self, fd: int) -> bool:
        """Reads once; returns False at end of file or where nothing is left."""
        try:
            data = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            return False
        self.n_bytes += len(data)
        self.kept += data[: self.cap - len(self.kept)]
        return bool(data)


def _warm_up() -> None:
    """Loads codecs and lazily set up tables before the first fork, so that no call pays for them."""
    cv2.setNumThreads(0)
    Image.init()
    pixels = np.zeros((16, 16, 3), np.uint8)
    for suffix in (".jpg", ".png", ".bmp"):
        encoded = cv2.imencode(suffix, pixels)[1]
        cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    cv2.GaussianBlur(cv2.rotate(pixels, cv2.ROTATE_180), (3, 3), 0)
    cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    with tempfile.TemporaryFile() as f:
        image = Image.fromarray(pixels).rotate(90, expand=True).resize((8, 8))
        image.save(f, "JPEG")
        image.save(f, "PNG")
    np.linalg.norm(pixels)


def _fork_spare(root: str, limits: limits_lib.Limits, base_bytes: int) -> _Spare:
    folder = tempfile.mkdtemp(prefix="call-", dir=root)
    worker_pid = os.getpid()
    go_r, go_w = os.pipe()
    out_r, out_w = os.pipe()
    note_r, note_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(go_w)
        child.run(go_r, out_w, note_w, folder, limits, base_bytes, worker_pid)
    for fd in (go_r, out_w, note_w):
        os.close(fd)
    os.set_blocking(out_r, False)
    os.set_blocking(note_r, False)
    folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    return _Spare(pid, os.pidfd_open(pid), go_w, out_r, note_r, folder, folder_fd)


def _kill(spare: _Spare) -> None:
    """Ends the child and, where it could fork after all, its session."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(spare.pid_fd, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(spare.pid, signal.SIGKILL)


def _children() -> list[int]:
    """Processes whose parent is this one."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            with open(f"/proc/{name}/stat", "rb") as f:
                if int(f.read().rpartition(b")")[2].split()[1]) == os.getpid():
                    found.append(int(name))
    return found


def _end_strays() -> None:
    """Ends whatever a call left behind: its orphans fall to this process, which is their reaper."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            for stray in _children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(stray, signal.SIGKILL)
            time.sleep(0.001)


def _discard(spare: _Spare) -> None:
    """Ends the child if it lives, and frees its descriptors and folder."""
    _kill(spare)
    _end_strays()
    for fd in (spare.pid_fd, spare.go_fd, spare.out_fd, spare.note_fd, spare.folder_fd):
        if fd >= 0:
            os.close(fd)
    scratch_lib.remove(spare.folder)


def _watch(spare: _Spare, sock: socket.socket, limits: limits_lib.Limits, printed: _Printed) -> str:
    """Waits for the child's end; ends it at a limit. Returns ``exit`` or the limit's name."""
    now = time.monotonic()
    deadline, next_look = now + limits.timeout_s, now + _WATCH_S
    poller = select.poll()
    poller.register(spare.pid_fd, select.POLLIN)
    poller.register(spare.out_fd, select.POLLIN)
    poller.register(sock, 0)  # hang-up is always reported
    while True:
        events = dict(poller.poll(max(0.0, min(deadline, next_look) - now) * 1000 + 1))
        if sock.fileno() in events:
            raise _Gone
        if spare.pid_fd in events:
            return "exit"
        if spare.out_fd in events and not printed.read(spare.out_fd):
            poller.unregister(spare.out_fd)
        if printed.n_bytes > limits.max_flood_bytes:
            return "flood"
        now = time.monotonic()
        if now >= deadline:
            return "time"
        if now >= next_look:
            next_look = now + _WATCH_S
            if scratch_lib.is_over(spare.folder, limits.max_scratch_bytes, limits.max_scratch_entries):
                return "disk"


def _serve_call(spare: _Spare, sock: socket.socket, limits: limits_lib.Limits, header: dict, pixels: bytearray) -> None:
    """Runs one request in the waiting child and answers it."""
    with open(os.path.join(spare.folder, protocol.INPUT_NAME), "wb") as f:
        # Binary PPM: lossless and nothing to compute. PIL and OpenCV go by the content, not by the name.
        f.write(b"P6\n%d %d\n255\n" % (header["width"], header["height"]))
        f.write(pixels)
    seed = child.seed_of(header["source"], pixels)
    with open(spare.go_fd, "wb") as go:
        spare.go_fd = -1
        go.write(json.dumps({"source": header["source"], "seed": seed}).encode())
    printed = _Printed(limits.max_output_bytes)
    verdict = _watch(spare, sock, limits, printed)
    if verdict != "exit":
        _kill(spare)
    _, status, usage = os.wait4(spare.pid, 0)
    _end_strays()
    while printed.n_bytes <= limits.max_flood_bytes and printed.read(spare.out_fd):
        pass
    note = _Printed(_NOTE_BYTES)
    while note.n_bytes < _NOTE_BYTES and note.read(spare.note_fd):
        pass
    kind, content = scratch_lib.collect(spare.folder_fd, protocol.OUTPUT_NAME, limits.max_file_bytes)
    reply = {
        "verdict": verdict,
        "status": status,
        "printed": printed.kept.decode("utf-8", "replace").replace(spare.folder, "."),
        "was_cut": printed.n_bytes > len(printed.kept),
        "was_set_up": note.kept.startswith(wire.READY),
        "note": note.kept[1:].decode("utf-8", "replace").replace(spare.folder, "."),
        "output": kind,
        "cpu_s": usage.ru_utime + usage.ru_stime,
    }
    wire.send(sock, reply, content if verdict == "exit" and status == 0 else b"")


def _serve(sock: socket.socket, root: str, limits: limits_lib.Limits) -> None:
    base_bytes = limits_lib.mapped_bytes()
    while True:
        spare = _fork_spare(root, limits, base_bytes)
        try:
            header, pixels = wire.receive(sock, MAX_REQUEST_BYTES)
            _serve_call(spare, sock, limits, header, pixels)
        finally:
            _discard(spare)


def _raise_exit(*_: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(0)


def _is_orphan(parent_pid: int) -> bool:
    """Whether the parent is dead; its sockets close a moment before the kernel says so."""
    deadline = time.monotonic() + _ORPHAN_S
    while os.getppid() == parent_pid:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _clean_up(root: str, parent_pid: int) -> None:
    """Removes this worker's folder and, where nobody else is left to do it, the broker's around it.

    A killed broker's threads end one by one: the signal for the one that started us, or the end of the socket, comes
    before the process itself is gone.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    scratch_lib.remove(root)
    if _is_orphan(parent_pid):
        with contextlib.suppress(OSError):
            os.rmdir(os.path.dirname(root))  # the last worker's attempt succeeds


def main() -> None:
    """Serves calls on the inherited socket until the broker is gone."""
    config = json.loads(sys.argv[1])
    for path in _PATHS:
        sys.path.remove(path)  # the policy's code sees what is loaded, and the standard library
    signal.signal(signal.SIGTERM, _raise_exit)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    confine.die_with_parent(config["parent_pid"], signal.SIGTERM)
    confine.shut_privileges()
    confine.be_reaper()
    sock = socket.socket(fileno=config["socket_fd"])
    os.set_inheritable(sock.fileno(), False)
    try:
        _warm_up()
        gc.collect()
        gc.freeze()  # keeps the collector from touching, and so copying, the pages that children share
        wire.send(sock, {"ready": True})
        _serve(sock, config["root"], limits_lib.Limits(**config["limits"]))
    except (_Gone, EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the broker is gone
    finally:
        _clean_up(config["root"], config["parent_pid"])


if __name__ == "__main__":
    main()
