"""The process from which calls are forked. It has never seen a request, nor what came of one.

A forked process inherits its parent's memory. The worker hears what calls printed and drew: so it forks this process
before its first call, and this one forks all that runs code or decodes files. What it forks is the worker's child, not
its own (``CLONE_PARENT``): the worker alone learns how a call ended. What comes in here is one byte and descriptors.
"""

import collections
import contextlib
import dataclasses
import os
import signal
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from arft_jax.tools.sandbox import confine, kernel
from arft_jax.tools.sandbox.syscalls import NUMBERS

_MAX_FDS = 8
_PID = struct.Struct("<i")  # of the new process; below 0: an errno

# What a new process does with the descriptors that it was given; it never returns.
Service = Callable[[Sequence[int]], NoReturn]


@dataclasses.dataclass
class Birth:
    """A process that was asked for; its number is 0 until :meth:`Forker.settle`. It is the asker's child."""

    pid: int = 0


class Forker:
    """The process, as the worker holds it.

    Args:
      services: what can be asked for, by one byte each.
      kept: descriptors that stay open in it and in what it forks.
      prepare: called in it once, before its first fork, while the worker's descriptors are open.

    Attributes:
      pid: its number.
    """

    def __init__(self, services: Mapping[bytes, Service], kept: Sequence[int], prepare: Callable[[], None]):
        self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        worker_pid = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                confine.die_with_parent(worker_pid, signal.SIGKILL)
                for number in (signal.SIGTERM, signal.SIGHUP):
                    signal.signal(number, signal.SIG_DFL)
                prepare()
                _close_all_but({0, 1, 2, theirs.fileno(), *kept})
                _serve(theirs, services)
            finally:
                os._exit(0)  # nothing may unwind into the worker's frames
        theirs.close()
        self._asked: collections.deque[Birth] = collections.deque()

    def ask(self, service: bytes, fds: Sequence[int]) -> Birth:
        """Asks for a process that does the service with the descriptors, which may be closed at once.

        Raises:
          OSError: the forker is gone (BrokenPipeError).
        """
        socket.send_fds(self._sock, [service], fds)
        birth = Birth()
        self._asked.append(birth)
        return birth

    def settle(self) -> None:
        """Waits until every process that was asked for is there.

        Raises:
          EOFError: the forker is gone.
          OSError: the kernel refuses a process.
        """
        while self._asked:
            reply = self._sock.recv(_PID.size)
            if len(reply) < _PID.size:
                raise EOFError("the forker has ended")
            (pid,) = _PID.unpack(reply)
            if pid < 0:
                raise OSError(-pid, os.strerror(-pid), "clone")
            self._asked.popleft().pid = pid

    def close(self) -> None:
        """Ends the process; what it has forked goes on."""
        self._sock.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def _close_all_but(kept: set[int]) -> None:
    low = 0
    for fd in sorted(kept):
        if low < fd:  # to closerange, an empty range that starts at 0 is all there are
            os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, 1024)


def _serve(sock: socket.socket, services: Mapping[bytes, Service]) -> None:
    clone = NUMBERS[os.uname().machine]["clone"]
    while True:
        service, fds, _, _ = socket.recv_fds(sock, 1, _MAX_FDS)
        if not service:
            return
        try:
            pid = kernel.clone_sibling(clone)
        except OSError as error:
            pid = -error.errno
        if pid == 0:
            services[service](fds)
        for fd in fds:
            os.close(fd)
        sock.send(_PID.pack(pid))
