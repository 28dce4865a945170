"""What the worker may know of the processes below it: one ``/proc``, opened before the root changes.

Its numbers are those of that ``/proc``; inside namespaces the worker counts processes by others. A host without
``/proc`` shows nothing here: no children, no threads.
"""

import contextlib
import os
from collections.abc import Iterator

_READ_BYTES = 65536
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def _open_or_none(path: str, flags: int) -> int:
    try:
        return os.open(path, flags)
    except OSError:
        return -1


class Proc:
    """An open ``/proc``. It is the worker's alone: whatever is forked closes it before anything else."""

    def __init__(self) -> None:
        self.fd = _open_or_none("/proc", _FOLDER)
        self._last_pid_fd = _open_or_none("/proc/sys/kernel/ns_last_pid", os.O_WRONLY | os.O_CLOEXEC)
        self._inner: dict[int, int] = {}  # outer number of a child: the worker's own number for it

    def read(self, path: str) -> bytes:
        """A file's content; raises OSError."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.fd)
        try:
            data = part = os.read(fd, _READ_BYTES)
            while part:
                part = os.read(fd, _READ_BYTES)
                data += part
            return data
        finally:
            os.close(fd)

    def write(self, path: str, text: bytes) -> None:
        """Writes to a file; raises OSError."""
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=self.fd)
        try:
            os.write(fd, text)
        finally:
            os.close(fd)

    def number_next(self, number: int) -> None:
        """Lets the next process or thread of this pid namespace have this number, and those behind it the next ones.

        Nothing is done where the host does not grant it: the numbers then count what there was before.
        """
        with contextlib.suppress(OSError):
            os.pwrite(self._last_pid_fd, b"%d" % (number - 1), 0)

    def open_tasks(self, pid_fd: int) -> int:
        """Descriptor of the folder of a process's threads; -1 where there is none.

        Args:
          pid_fd: the process, as ``pidfd_open`` gave it.
        """
        with contextlib.suppress(OSError, ValueError):
            for line in self.read(f"self/fdinfo/{pid_fd}").splitlines():
                if line.startswith(b"Pid:") and int(line[4:]) > 0:
                    return os.open(f"{int(line[4:])}/task", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.fd)
        return -1

    def children(self) -> list[int]:
        """Processes whose parent is this one, by its own numbers."""
        known, self._inner = self._inner, {}
        with contextlib.suppress(OSError):
            for pid in self._outer_children():
                self._inner[pid] = known[pid] if pid in known else self._number_inside(pid)
        return list(self._inner.values())

    def _outer_children(self) -> list[int]:
        me = os.readlink("self", dir_fd=self.fd)
        try:
            return [int(pid) for pid in self.read(f"{me}/task/{me}/children").split()]
        except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
            return [pid for pid, parent in self._parents() if parent == int(me)]

    def _parents(self) -> Iterator[tuple[int, int]]:
        folder = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.fd)
        try:
            names = os.listdir(folder)
        finally:
            os.close(folder)
        for name in filter(str.isdigit, names):
            with contextlib.suppress(OSError):
                yield int(name), int(self.read(f"{name}/stat").rpartition(b")")[2].split()[1])

    def _number_inside(self, pid: int) -> int:
        for line in self.read(f"{pid}/status").splitlines():
            if line.startswith(b"NSpid:"):
                return int(line.split()[-1])
        return pid  # a kernel without pid namespaces
