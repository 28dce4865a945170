"""Scratch folders: where they lie, how full they are, what is taken out of them, and their removal."""

import itertools
import os
import stat
import tempfile
import time

_MIN_FREE_BYTES = 256 << 20
_REMOVE_TRIES = 5


def choose_root() -> str:
    """A folder in memory (/dev/shm) where there is room in it, else the system's temporary folder."""
    shm = "/dev/shm"
    try:
        space = os.statvfs(shm)
        if os.access(shm, os.W_OK | os.X_OK) and space.f_bavail * space.f_frsize >= _MIN_FREE_BYTES:
            return shm
    except OSError:
        pass
    return tempfile.gettempdir()


def _unlink(name: str, folder_fd: int) -> bool:
    """Removes anything but a directory; opens a directory's mode instead and returns False."""
    try:
        os.unlink(name, dir_fd=folder_fd)
        return True
    except IsADirectoryError:
        os.chmod(name, 0o700, dir_fd=folder_fd)
        return False


def _empty(top_fd: int) -> None:
    """Empties a folder. A sub-folder's own sub-folders are moved to the top, so no depth is ever walked."""
    numbers = itertools.count()
    while names := os.listdir(top_fd):
        for name in names:
            if _unlink(name, top_fd):
                continue
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top_fd)
            try:
                for inner in os.listdir(fd):
                    if not _unlink(inner, fd):
                        os.rename(inner, f".{os.urandom(8).hex()}-{next(numbers)}", src_dir_fd=fd, dst_dir_fd=top_fd)
            finally:
                os.close(fd)
            os.rmdir(name, dir_fd=top_fd)


def remove(path: str) -> None:
    """Removes a folder and all in it, whatever a call did to it: closed modes, links, chains of any depth."""
    for _ in range(_REMOVE_TRIES):
        try:
            os.chmod(path, 0o700)
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                _empty(fd)
            finally:
                os.close(fd)
            os.rmdir(path)
            return
        except FileNotFoundError:
            if not os.path.lexists(path):
                return
        except OSError:
            pass
        time.sleep(0.01)  # its writer may be dying still


def is_over(path: str, max_bytes: int, max_entries: int) -> bool:
    """Whether the folder holds more than it may; stops counting there, so it costs little."""
    n_bytes = n_entries = 0
    for folder, dirs, files in os.walk(path):
        n_entries += len(dirs) + len(files)
        if n_entries > max_entries:
            return True
        for name in files:
            try:
                n_bytes += os.lstat(os.path.join(folder, name)).st_blocks * 512
            except OSError:
                continue
        if n_bytes > max_bytes:
            return True
    return False


def collect(folder_fd: int, name: str, max_bytes: int) -> tuple[str, bytes]:
    """Takes a file out of a folder whose writer is dead.

    Only a regular file with one name counts: no symbolic link, hard link, FIFO or device.

    Returns:
      (``none`` | ``irregular`` | ``large`` | ``file``, content).
    """
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder_fd)
    except FileNotFoundError:
        return "none", b""
    except OSError:
        return "irregular", b""
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_nlink != 1:
            return "irregular", b""
        if info.st_size > max_bytes:
            return "large", b""
        with open(fd, "rb", closefd=False) as f:
            return "file", f.read(max_bytes)
    finally:
        os.close(fd)
