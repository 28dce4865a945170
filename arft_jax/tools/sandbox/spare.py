"""A child that is forked, and confined, ahead of the call that it will serve; and its end."""

import contextlib
import dataclasses
import os
import signal

from arft_jax.tools.sandbox import child, confine, namespaces
from arft_jax.tools.sandbox import decoder as decoder_lib
from arft_jax.tools.sandbox import limits as limits_lib
from arft_jax.tools.sandbox import scratch as scratch_lib


@dataclasses.dataclass(frozen=True)
class Home:
    """Where a worker's calls happen.

    Args:
      folder: every call's scratch folder: emptied after each, under L1 a mount point.
      isolated: whether the worker is process 1 of its own namespaces (level L1).
      limits: of every call.
      plan: what children take on.
      hold: the same made ready for calls.
      decoder: decodes what calls wrote.
      base_bytes: address space that the worker has mapped.
    """

    folder: str
    isolated: bool
    limits: limits_lib.Limits
    plan: confine.Plan
    hold: confine.Confinement
    decoder: decoder_lib.Decoder
    base_bytes: int

    def open_folder(self) -> int:
        """Descriptor of the empty scratch folder, under L1 of a fresh one with a quota."""
        if self.isolated:
            namespaces.mount_scratch(self.limits.max_scratch_bytes, self.limits.max_scratch_entries)
        return os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def make_room(self, n_bytes: int) -> None:
        """Raises a quota by what a call is given, so that this takes nothing from what the call may write."""
        if self.isolated and n_bytes > namespaces.SLACK_BYTES:
            namespaces.resize_scratch(n_bytes + self.limits.max_scratch_bytes, self.limits.max_scratch_entries)

    def clear_folder(self) -> None:
        """Leaves the folder empty; raises OSError where that fails, and the worker must not go on."""
        if self.isolated:
            namespaces.unmount_scratch()
        else:
            scratch_lib.empty(self.folder)


def make_home(
    root: str, isolated: bool, limits: limits_lib.Limits, plan: confine.Plan, base_bytes: int, max_image_px: int
) -> Home:
    """Makes the folder, the confinements and the decoder of a worker."""
    folder = namespaces.SCRATCH if isolated else os.path.join(root, "call")
    if not isolated:
        os.mkdir(folder, 0o700)
    if not plan.seccomp:
        limits = dataclasses.replace(limits, forbids_processes=True)
    # Programs write what they do not want to os.devnull.
    writable = [namespaces.SCRATCH_RULE if isolated else folder, os.devnull]
    hold = confine.Confinement(plan, plan.readable, writable)
    without_files = confine.Confinement(plan, (), ())
    decoder = decoder_lib.Decoder(without_files, base_bytes, limits.max_file_bytes, max_image_px)
    return Home(folder, isolated, limits, plan, hold, decoder, base_bytes)


@dataclasses.dataclass
class Spare:
    """A child that waits for its request; descriptors are this side's ends."""

    pid: int
    pid_fd: int
    go_fd: int
    out_fd: int
    note_fd: int
    err_fd: int
    folder_fd: int
    is_over: bool = False  # waited for


def fork(home: Home) -> Spare:
    """Opens a folder and forks a child that waits in it, confined."""
    folder_fd = home.open_folder()
    worker_pid = os.getpid()
    go_r, go_w = os.pipe()
    out_r, out_w = os.pipe()
    note_r, note_w = os.pipe()
    err_r, err_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(go_w)
        child.run(
            child.Ends(go_r, out_w, note_w, err_w), home.folder, home.limits, home.hold, home.base_bytes, worker_pid
        )
    for fd in (go_r, out_w, note_w, err_w):
        os.close(fd)
    for fd in (out_r, note_r, err_r):
        os.set_blocking(fd, False)
    return Spare(pid, os.pidfd_open(pid), go_w, out_r, note_r, err_r, folder_fd)


def kill(spare: Spare) -> None:
    """Ends the child and, where it could fork after all, its group."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(spare.pid_fd, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(spare.pid, signal.SIGKILL)


def _children() -> list[int]:
    """Processes whose parent is this one."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as f:
            return [int(pid) for pid in f.read().split()]
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
        pass
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            with open(f"/proc/{name}/stat", "rb") as f:
                if int(f.read().rpartition(b")")[2].split()[1]) == os.getpid():
                    found.append(int(name))
    return found


def end_strays(home: Home, was_odd: bool) -> None:
    """Ends whatever a call left behind, though the filter lets it make no process.

    Its orphans fall to this process, which is their reaper. Inside namespaces there is no list of processes: all
    are ended, the decoder too, after a call that ended oddly, and where no filter held it.
    """
    if home.isolated:
        if was_odd or not home.plan.seccomp:
            home.decoder.stop()
            namespaces.end_everybody_else()
            with contextlib.suppress(ChildProcessError):
                while True:
                    os.waitpid(-1, 0)
        return
    while strays := [pid for pid in _children() if pid != home.decoder.pid]:
        for stray in strays:
            with contextlib.suppress(ProcessLookupError):
                os.kill(stray, signal.SIGKILL)
            os.waitpid(stray, 0)


def discard(spare: Spare, home: Home) -> None:
    """Ends the child if it has not been waited for, frees its descriptors and clears its folder."""
    if not spare.is_over:
        kill(spare)
        os.waitpid(spare.pid, 0)
        end_strays(home, True)
    for fd in (spare.pid_fd, spare.go_fd, spare.out_fd, spare.note_fd, spare.err_fd, spare.folder_fd):
        if fd >= 0:
            os.close(fd)
    home.clear_folder()
