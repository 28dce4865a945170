"""Scratch folders: where they lie, how full they are, what is taken out of them, and their removal."""

import contextlib
import errno
import itertools
import os
import re
import stat
import tempfile
import time

_MIN_FREE_BYTES = 256 << 20
_REMOVE_TRIES = 5
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OUTPUT = re.compile(r"output_\w{1,24}\.(png|jpg|jpeg|bmp|webp|gif|tif|tiff|ppm)", re.ASCII)


def choose_root() -> str:
    """A folder in memory (/dev/shm) where there is room in it, else the system's temporary folder."""
    shm = "/dev/shm"
    try:
        space = os.statvfs(shm)
        if os.access(shm, os.W_OK | os.X_OK) and space.f_bavail * space.f_frsize >= _MIN_FREE_BYTES:
            return shm
    except OSError:
        pass  # no such folder: the other one
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
            fd = os.open(name, _FOLDER, dir_fd=top_fd)
            try:
                for inner in os.listdir(fd):
                    if not _unlink(inner, fd):
                        os.rename(inner, f".{os.urandom(8).hex()}-{next(numbers)}", src_dir_fd=fd, dst_dir_fd=top_fd)
            finally:
                os.close(fd)
            os.rmdir(name, dir_fd=top_fd)


def remove(path: str) -> None:
    """Removes a folder and all in it, whatever a call did to it: closed modes, links, chains of any depth.

    A folder that resists for as long as this tries stays, without an error: its owner is on its way out.
    """
    for _ in range(_REMOVE_TRIES):
        try:
            os.chmod(path, 0o700)
            fd = os.open(path, _FOLDER)
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


def empty(path: str) -> None:
    """Removes all in a folder and keeps the folder.

    Raises:
      OSError: if something stays, or the folder itself is gone.
    """
    os.chmod(path, 0o700)
    fd = os.open(path, _FOLDER)
    try:
        for _ in range(_REMOVE_TRIES):
            with contextlib.suppress(OSError):
                _empty(fd)
            if not os.listdir(fd):
                return
            time.sleep(0.01)  # its writer may be dying still
        raise OSError(errno.ENOTEMPTY, "a call left what cannot be removed", path)
    finally:
        os.close(fd)


def _measure(folder_fd: int, max_bytes: int, max_entries: int) -> tuple[int, int]:
    """(bytes, entries) below a folder; stops counting where there are too many, so it costs little.

    Folders are opened one below the other, never by a path, which could be too long to open. A folder that
    cannot be looked into counts as full: honest code makes none.
    """
    n_bytes = n_entries = 0
    with os.scandir(folder_fd) as entries:
        for entry in entries:
            n_entries += 1
            if n_entries > max_entries or n_bytes > max_bytes:
                break
            try:
                n_bytes += entry.stat(follow_symlinks=False).st_blocks * 512
                if not entry.is_dir(follow_symlinks=False):
                    continue
                fd = os.open(entry.name, _FOLDER, dir_fd=folder_fd)
            except FileNotFoundError:
                continue  # gone meanwhile
            except OSError:
                return max_bytes + 1, n_entries
            try:
                below = _measure(fd, max_bytes - n_bytes, max_entries - n_entries)
            finally:
                os.close(fd)
            n_bytes, n_entries = n_bytes + below[0], n_entries + below[1]
    return n_bytes, n_entries


def is_over(folder_fd: int, max_bytes: int, max_entries: int) -> bool:
    """Whether the folder holds more than it may, in bytes or in files and folders."""
    try:
        n_bytes, n_entries = _measure(folder_fd, max_bytes, max_entries)
    except OSError:  # the folder itself is gone or closed to us: nothing that honest code does
        return True
    return n_bytes > max_bytes or n_entries > max_entries


def _mapped_inodes(pid: int, folder: str) -> set[int]:
    """Deleted files of a folder that a running process has mapped into its memory, by inode."""
    gone, prefix, found = b" (deleted)", os.fsencode(folder) + b"/", set()
    with open(f"/proc/{pid}/maps", "rb", buffering=0) as f:
        maps = f.readall()
    if gone in maps:  # rarely
        for line in maps.split(b"\n"):  # the kernel writes a line's end in a name as \012
            fields = line.split(None, 5)  # address, rights, offset, device, inode, path
            if len(fields) == 6 and fields[5].startswith(prefix) and line.endswith(gone):
                found.add(int(fields[4]))
    return found


def _deleted_files(descriptors: str) -> dict[int, int]:
    """Bytes of the deleted files among open descriptors, by inode."""
    sizes = {}
    with os.scandir(descriptors) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):  # closed since it was listed: the others count all the same
                info = entry.stat()
                if stat.S_ISREG(info.st_mode) and info.st_nlink == 0:
                    sizes[info.st_ino] = info.st_blocks * 512
    return sizes


def held_bytes(pid: int, folder_fd: int, max_file_bytes: int) -> int:
    """Bytes of deleted files of a folder that a running process keeps, open or mapped: no folder shows them.

    Args:
      pid: the process.
      folder_fd: the folder.
      max_file_bytes: what a file counts for that is mapped and not open: nobody can see how large it is.
    """
    sizes = {}
    with contextlib.suppress(OSError):  # it ends just now, or there is no /proc: then a quota holds
        for thread in os.listdir(f"/proc/{pid}/task"):  # a thread could have a table of descriptors of its own
            with contextlib.suppress(FileNotFoundError):  # it has ended since
                sizes |= _deleted_files(f"/proc/{pid}/task/{thread}/fd")
        for inode in _mapped_inodes(pid, os.readlink(f"/proc/self/fd/{folder_fd}")):
            sizes.setdefault(inode, max_file_bytes)
    return sum(sizes.values())


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


def output_names(folder_fd: int) -> list[str]:
    """Files that the code offers as images, ``output_2.png`` before ``output_10.png``."""
    names = [name for name in os.listdir(folder_fd) if _OUTPUT.fullmatch(name)]
    return sorted(names, key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)])
