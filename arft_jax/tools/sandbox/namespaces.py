"""Level L1: the worker moves into its own user, mount, pid, network, IPC and host-name namespaces.

It sees a file system of libraries alone, read-only, no process but its own, and no network device. Each
call gets a fresh tmpfs with a quota; all of it vanishes with the worker.

Sources: user_namespaces(7), mount_namespaces(7), pid_namespaces(7), pivot_root(2), tmpfs(5).
"""

import errno
import os
import signal
from collections.abc import Sequence

from arft_jax.tools.sandbox import confine, kernel
from arft_jax.tools.sandbox.readable import is_below
from arft_jax.tools.sandbox.syscalls import NUMBERS

SCRATCH = "/scratch/call"  # Landlock goes past a folder that a mount covers: its rule stands on the folder above
SLACK_BYTES = 1 << 20  # of the quota, above what the watch allows
_NEW_NS, _NEW_UTS, _NEW_IPC = 0x00020000, 0x04000000, 0x08000000
_NEW_USER, _NEW_PID, _NEW_NET = 0x10000000, 0x20000000, 0x40000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT = 1, 2, 4, 8, 32
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18
_COVER = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
_MNT_DETACH = 2
_INSIDE_ID = 65532  # user and group as the namespace calls them: nobody in particular
_STAGE = "/tmp"  # where the new root is put together; only this process sees it
_SMALL = "size=1m,nr_inodes=1024,mode=755"  # of a tmpfs that holds mount points alone
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as f:
        f.write(text)


def _bind(fd: int, path: str, flags: int) -> None:
    """Shows the opened file or folder at ``path`` below the new root.

    Flags that a mount has already may be locked: they are kept, not cleared.
    """
    target, source = _STAGE + path, f"/proc/self/fd/{fd}"
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        _write(target, "")
    kernel.mount(source, target, None, _MS_BIND | _MS_REC)
    flags |= os.statvfs(target).f_flag & (_MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)  # ST_ and MS_ are equal
    kernel.mount(None, target, None, _MS_REMOUNT | _MS_BIND | flags)


def _layers(shown: Sequence[str], hidden: Sequence[str]) -> list[tuple[str, bool]]:
    """Mounts in their order, a folder's before those in it: (path, whether it is a cover).

    What lies in a mount of its own kind needs none; where nothing is shown there is nothing to cover.
    """
    is_cover = {path: False for path in map(os.path.abspath, shown) if os.path.exists(path)}
    is_cover = {path: True for path in map(os.path.abspath, hidden) if os.path.isdir(path)} | is_cover
    layers: list[tuple[str, bool]] = []
    for path in sorted(is_cover):
        around = [cover for other, cover in layers if is_below(path, other)] or [True]
        if around[-1] != is_cover[path]:
            layers.append((path, is_cover[path]))
    return layers


def own_root(shown: Sequence[str], hidden: Sequence[str]) -> None:
    """Changes the root to a small read-only one with the given paths in it, and empty folders over the hidden ones.

    Reading leaves no mark that another call could see: on a read-only mount no time of access is kept.
    """
    kernel.mount(None, "/", None, _MS_REC | _MS_PRIVATE)
    layers = _layers([path for path in shown if path not in _DEVICES], hidden)
    wanted = [(path, is_cover, _MS_RDONLY | _MS_NOSUID | _MS_NODEV) for path, is_cover in layers]
    wanted += [(path, False, _MS_NOSUID | _MS_NOEXEC) for path in _DEVICES if os.path.exists(path)]
    # Opened first: the stage covers what lies below it.
    opened = {path: os.open(path, os.O_PATH | os.O_CLOEXEC) for path, is_cover, _ in wanted if not is_cover}
    kernel.mount("tmpfs", _STAGE, "tmpfs", _MS_NOSUID | _MS_NODEV, _SMALL)
    for path, is_cover, flags in wanted:
        if is_cover:
            kernel.mount("tmpfs", _STAGE + path, "tmpfs", _COVER, _SMALL)
        else:
            _bind(opened[path], path, flags)
            os.close(opened[path])
    for path, is_cover in layers:
        if is_cover:  # now that the mounts in it are made
            kernel.mount(None, _STAGE + path, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _COVER)
    os.makedirs(_STAGE + SCRATCH)
    os.mkdir(_STAGE + "/old")
    new_root, old_root = os.fsencode(_STAGE), os.fsencode(_STAGE + "/old")
    kernel.syscall("pivot_root", NUMBERS[os.uname().machine]["pivot_root"], new_root, old_root)
    os.chdir("/")
    kernel.unmount("/old", _MNT_DETACH)
    os.rmdir("/old")
    kernel.mount(None, "/", None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV)


def enter(shown: Sequence[str], hidden: Sequence[str]) -> None:
    """Moves this single-threaded process into namespaces of its own; returns in a fork of it, their process 1.

    The process that called waits for that fork and ends with it. Signals from inside do not reach process 1.

    Args:
      shown: files and folders that it sees, read-only.
      hidden: folders below them that it sees empty but for what is shown in them.

    Raises:
      OSError: where the host refuses a step; the process is then of no more use.
    """
    user, group = os.getuid(), os.getgid()
    kernel.unshare(_NEW_USER | _NEW_NS | _NEW_PID | _NEW_NET | _NEW_IPC | _NEW_UTS)
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{_INSIDE_ID} {user} 1")
    _write("/proc/self/gid_map", f"{_INSIDE_ID} {group} 1")
    own_root(shown, hidden)
    pid = os.fork()
    for number in (signal.SIGTERM, signal.SIGHUP):
        # For the one that waits: its end is that of process 1. For process 1: without a handler, no signal comes in.
        signal.signal(number, signal.SIG_DFL)
    if pid == 0:
        confine.die_with_parent(0, signal.SIGKILL)
        return
    os.closerange(0, 1024)
    os.waitpid(pid, 0)
    os._exit(0)


def mount_scratch(max_bytes: int, max_entries: int, more_flags: int = 0) -> str:
    """A fresh, empty tmpfs for one call, with quotas a little above what the watch ends a call for."""
    options = f"size={max_bytes + SLACK_BYTES},nr_inodes={max_entries + 8},mode=700"
    kernel.mount("tmpfs", SCRATCH, "tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC | more_flags, options)
    return SCRATCH


def resize_scratch(max_bytes: int, max_entries: int) -> None:
    """Changes the quota of the call's tmpfs and keeps what is in it."""
    mount_scratch(max_bytes, max_entries, _MS_REMOUNT)


def unmount_scratch() -> None:
    """Takes the call's tmpfs away, if there is one; it goes with all in it when nobody has it open."""
    try:
        kernel.unmount(SCRATCH, _MNT_DETACH)
    except OSError as error:
        if error.errno != errno.EINVAL:  # none is mounted
            raise
