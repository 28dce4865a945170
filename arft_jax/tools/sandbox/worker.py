"""The worker: a small server process that has one call at a time run, in a child forked ahead of it.

Started by the broker as ``python -s -P -B worker.py CONFIG``; it loads what policies use (numpy, PIL,
OpenCV) once, and forks the process from which calls are forked (forker.py) before it serves the first. It holds nothing
of the trainer's: no environment, no descriptor but its socket; of a call it never sees the code or the images, only how
it ended and what it printed and wrote. It ends when that socket closes, when its parent dies, or on SIGTERM, and
removes its scratch folders on the way.
"""

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator
from typing import NoReturn

_PATHS = [path for path in json.loads(sys.argv[1])["paths"] if path not in sys.path] if __name__ == "__main__" else []
_SITES = [n for n, path in enumerate(sys.path) if os.path.basename(path) in ("site-packages", "dist-packages")]
_PLACE = min(_SITES, default=len(sys.path))
# Where numpy, PIL, cv2 and this package lie for the trainer: before what else this interpreter has installed.
sys.path[_PLACE:_PLACE] = _PATHS
# What libraries do in every fork (take locks again, seed generators) costs more than the fork. Here one thread forks,
# which holds no lock of theirs, and each call is seeded by itself.
os.register_at_fork = lambda **_: None

from arft_jax import protocol  # noqa: E402
from arft_jax.tools.sandbox import confine, levels, namespaces, spare, warm, wire  # noqa: E402
from arft_jax.tools.sandbox import limits as limits_lib  # noqa: E402
from arft_jax.tools.sandbox import proc as proc_lib  # noqa: E402
from arft_jax.tools.sandbox import readable as readable_lib  # noqa: E402
from arft_jax.tools.sandbox import scratch as scratch_lib  # noqa: E402

MAX_HEADER_BYTES = 1 << 16
_NOTE_BYTES = 4096
_WATCH_S = 0.02  # how often a running call's scratch folder is measured
_COUNT_S = 0.005  # how often its threads are counted
_READ_BYTES = 65536
_ORPHAN_S = 1.0


class _Gone(Exception):
    """The broker closed the socket in the midst of a call."""


class _Orphaned(SystemExit):
    """The broker's thread that started this process is dead."""


class _Stream:
    """What a child wrote to one pipe: the first or the last ``cap`` bytes, and how much there was."""

    def __init__(self, fd: int, cap: int, tail: bool = False):
        self.fd = fd
        self.kept = bytearray()
        self.n_bytes = 0
        self._cap = cap
        self._tail = tail

    def read(self) -> bool:
        """Reads once; returns False at end of file or where nothing is left."""
        try:
            data = os.read(self.fd, _READ_BYTES)
        except BlockingIOError:
            return False
        self.n_bytes += len(data)
        if self._tail:
            self.kept = (self.kept + data)[-self._cap :]
        else:
            self.kept += data[: self._cap - len(self.kept)]
        return bool(data)

    def drain(self, max_bytes: int) -> None:
        """Reads what is left, until ``max_bytes`` in all have been seen."""
        while self.n_bytes <= max_bytes and self.read():
            pass

    def text(self, folder: str) -> str:
        """The bytes as text, the scratch folder's random path taken out."""
        return self.kept.decode("utf-8", "replace").replace(folder, ".")


def _is_full(waiting: spare.Spare, home: spare.Home, n_given: int) -> bool:
    """Whether the call's files, beside the bytes that it was given, are more than it may have."""
    limits = home.limits
    if scratch_lib.is_over(waiting.folder_fd, n_given + limits.max_scratch_bytes, limits.max_scratch_entries):
        return True
    if home.isolated:  # the quota counts deleted files too
        return False
    held = scratch_lib.held_bytes(waiting.pid, waiting.folder_fd, limits.max_file_bytes)
    return held > limits.max_scratch_bytes


def _wait_for_start(waiting: spare.Spare, sock: socket.socket, note: _Stream) -> bool:
    """Waits until the child has its request and is about to run it; returns False where it ended before.

    The trainer may take its time to send: none of it counts.
    """
    poller = select.poll()
    poller.register(waiting.note_fd, select.POLLIN)
    poller.register(sock, 0)  # hang-up is always reported
    while not note.n_bytes:
        if sock.fileno() in dict(poller.poll()):
            raise _Gone
        if not note.read() and not note.n_bytes:
            return False
    return note.kept.startswith(wire.READY)


def _watch(
    waiting: spare.Spare,
    sock: socket.socket,
    home: spare.Home,
    timeout_s: float,
    streams: tuple[_Stream, ...],
    n_given: int,
) -> str:
    """Waits for the child's end; ends it at a limit. Returns ``exit`` or the limit's name."""
    now = time.monotonic()
    deadline, next_count, next_look = now + timeout_s, now + _COUNT_S, now + _WATCH_S
    poller = select.poll()
    poller.register(waiting.pid_fd, select.POLLIN)
    poller.register(sock, 0)  # hang-up is always reported
    for stream in streams:
        poller.register(stream.fd, select.POLLIN)
    while True:
        events = dict(poller.poll(max(0.0, min(deadline, next_count) - now) * 1000 + 1))
        if sock.fileno() in events:
            raise _Gone
        if waiting.pid_fd in events:
            return "exit"
        for stream in streams:
            if stream.fd in events and not stream.read():
                poller.unregister(stream.fd)
            if stream.n_bytes > home.limits.max_flood_bytes:
                return "flood"
        now = time.monotonic()
        if now >= deadline:
            return "time"
        if now >= next_count:
            next_count = now + _COUNT_S
            if waiting.n_threads() > home.limits.max_threads:
                return "threads"
        if now >= next_look:
            next_look = now + _WATCH_S
            if _is_full(waiting, home, n_given):
                return "disk"


def _gather(waiting: spare.Spare, home: spare.Home, header: dict) -> tuple[list[dict], memoryview]:
    """Collects and decodes the images that a dead child left, one after the other up to the first with a fault.

    All files together may be no larger than one may be.

    Returns:
      (a report on each, their pixels).
    """
    names = [protocol.OUTPUT_NAME]
    if header["by_name"]:
        names += scratch_lib.output_names(waiting.folder_fd)[: header["max_outputs"]]
    reports = []

    def contents() -> Iterator[bytes]:
        room = home.limits.max_file_bytes
        for name in names:
            kind, content = scratch_lib.collect(waiting.folder_fd, name, room)
            if kind == "none":
                continue
            reports.append({"name": name, "kind": kind, "height": 0, "width": 0, "fault": ""})
            if kind != "file":
                return
            room -= len(content)
            yield content

    results, pixels = home.decoder.decode(contents())
    for report, result in zip(reports, results, strict=False):  # the last one may be of what is no file
        report.update(height=result.height, width=result.width, fault=result.fault)
    return reports, pixels


def _run(waiting: spare.Spare, sock: socket.socket, home: spare.Home, header: dict) -> dict:
    """Lets the waiting child have its request from the trainer, and runs it; returns how it ended."""
    limits, n_given = home.limits, header["n_given"]
    home.make_room(n_given)
    wire.send(sock, {}, fds=[waiting.hand_over(header["largest"])])
    waiting.request.close()
    out, err = _Stream(waiting.out_fd, limits.max_output_bytes), _Stream(waiting.err_fd, _NOTE_BYTES, tail=True)
    note = _Stream(waiting.note_fd, _NOTE_BYTES)
    verdict, started = "exit", time.monotonic()
    if was_set_up := _wait_for_start(waiting, sock, note):
        started = time.monotonic()
        verdict = _watch(waiting, sock, home, header["timeout_s"], (out, err), n_given)
    if verdict != "exit":
        waiting.kill()
    status, usage = waiting.wait()
    seconds = time.monotonic() - started
    out.drain(limits.max_flood_bytes)
    err.drain(limits.max_flood_bytes)
    note.drain(_NOTE_BYTES)
    if verdict == "exit" and status != 0 and _is_full(waiting, home, n_given):
        verdict = "disk"  # a quota was quicker than the watch
    note.kept = note.kept[len(wire.READY) :]
    was_replayed = not header["is_replay"]
    if not was_replayed and note.kept.startswith(wire.REPLAYED):
        was_replayed, note.kept = True, note.kept[len(wire.REPLAYED) :]
    return {
        "verdict": verdict,
        "status": status,
        "printed": out.text(home.folder),
        "was_cut": out.n_bytes > len(out.kept),
        "was_set_up": was_set_up,
        "was_replayed": was_replayed,
        "note": note.text(home.folder),
        "stderr": err.text(home.folder),
        "seconds": seconds,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "max_rss_bytes": usage.ru_maxrss << 10,
    }


def _answer(waiting: spare.Spare, sock: socket.socket, home: spare.Home, header: dict, reply: dict) -> None:
    """Sends the reply of a call whose child is dead, with the images that it left."""
    outputs, pixels = [], memoryview(b"")
    if (reply["verdict"], reply["status"]) == ("exit", 0):
        outputs, pixels = _gather(waiting, home, header)
    wire.send(sock, reply | {"outputs": outputs}, pixels)
    del pixels
    home.decoder.tidy()


def _serve(sock: socket.socket, home: spare.Home, waiting: spare.Spare) -> None:
    while True:
        try:
            header, _ = wire.receive(sock, MAX_HEADER_BYTES)
            reply = _run(waiting, sock, home, header)
            coming = spare.Spare(home)  # it is forked and confined while this call's images are decoded
            _answer(waiting, sock, home, header, reply)
        finally:
            waiting.discard()
            home.remove_last_folder()
        waiting = coming
        waiting.await_birth()


def _raise_exit(*_: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(0)


def _raise_orphaned(*_: object) -> NoReturn:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    raise _Orphaned(0)


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
    before the process itself is gone. Told to end (SIGTERM), the worker need not ask.
    """
    was_told = signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    scratch_lib.remove(root)
    if not was_told and _is_orphan(parent_pid):
        with contextlib.suppress(OSError):
            os.rmdir(os.path.dirname(root))  # the last worker's attempt succeeds


def _settle(config: dict, sock: socket.socket) -> tuple[spare.Home, spare.Spare]:
    """Takes the level on, and has the first child forked; ends the process, with the reason, where this host refuses.

    Returns:
      (where calls happen, the child that waits for the first).
    """
    level, limits = config["level"], limits_lib.Limits(**config["limits"])
    base_bytes = limits_lib.mapped_bytes()
    readable, proc = config["readable"], proc_lib.Proc()
    try:
        if level == levels.L1:
            namespaces.enter(readable["shown"], readable["hidden"])
        plan, faults = confine.survey(tuple(readable["rules"]))
        levels.check(level, plan, faults)
        confine.shut_privileges()
        confine.be_reaper()
        gc.collect()
        gc.freeze()  # keeps the collector from touching, and so copying, the pages that children share
        home = spare.make_home(
            config["root"], level == levels.L1, limits, plan, base_bytes, config["max_image_px"], proc
        )
        first = spare.Spare(home)
        first.await_birth()
        return home, first
    except (OSError, EOFError, levels.DoesNotHold) as error:
        wire.send(sock, {"ready": False, "fault": str(error)})
        raise SystemExit(0) from None


def main() -> None:
    """Serves calls on the inherited socket until the broker is gone."""
    config = json.loads(sys.argv[1])
    for path in _PATHS:
        sys.path.remove(path)  # the policy's code sees what is loaded, and the standard library
    signal.signal(signal.SIGTERM, _raise_exit)
    signal.signal(signal.SIGHUP, _raise_orphaned)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    confine.die_with_parent(config["parent_pid"] or os.getppid(), signal.SIGHUP)
    sock = socket.socket(fileno=config["socket_fd"])
    os.set_inheritable(sock.fileno(), False)
    try:
        warm.warm_up()
        readable_lib.narrow_imports()
        home, first = _settle(config, sock)
        ready = {"ready": True, "landlock": home.plan.landlock, "seccomp": home.plan.seccomp, "isolated": home.isolated}
        wire.send(sock, ready)
        _serve(sock, home, first)
    except (_Gone, EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the broker is gone; or the forker, and then the broker sees this end and starts another worker
    finally:
        if config["root"]:
            _clean_up(config["root"], config["parent_pid"])


if __name__ == "__main__":
    main()
