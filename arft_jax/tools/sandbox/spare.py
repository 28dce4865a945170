"""A child that is forked, and confined, ahead of the call that it will serve; and its end."""

import contextlib
import dataclasses
import functools
import os
import resource
import signal
import socket
from collections.abc import Sequence

from arft_jax.tools.sandbox import child, confine, namespaces
from arft_jax.tools.sandbox import decoder as decoder_lib
from arft_jax.tools.sandbox import forker as forker_lib
from arft_jax.tools.sandbox import limits as limits_lib
from arft_jax.tools.sandbox import proc as proc_lib
from arft_jax.tools.sandbox import scratch as scratch_lib

_CALL, _DECODER = b"c", b"d"
# Numbers of processes within namespaces: a call's is always the same, whatever ran before it.
_FIRST_DECODER, _FIRST_CALL = 600, 1000


@dataclasses.dataclass(frozen=True)
class Home:
    """Where a worker's calls happen.

    Args:
      folder: every call's scratch folder, alone in a folder of its own; under L1 a mount point.
      last_folder: where the last call's folder is moved; unused under L1.
      isolated: whether the worker is process 1 of its own namespaces (level L1).
      limits: of every call.
      plan: what children take on.
      proc: the processes below the worker.
      forker: forks calls.
      decoder: decodes what calls wrote.
    """

    folder: str
    last_folder: str
    isolated: bool
    limits: limits_lib.Limits
    plan: confine.Plan
    proc: proc_lib.Proc
    forker: forker_lib.Forker
    decoder: decoder_lib.Decoder

    def open_folder(self) -> int:
        """Descriptor of the next call's scratch folder: always a fresh one, for a used one keeps the size of its table.

        The last one is there as long as its descriptor and, without namespaces, until it is removed.
        """
        if self.isolated:
            namespaces.unmount_scratch()
            namespaces.mount_scratch(self.limits.max_scratch_bytes, self.limits.max_scratch_entries)
        else:
            if os.path.lexists(self.folder):
                os.chmod(self.folder, 0o700)
                os.rename(self.folder, self.last_folder)
            scratch_lib.empty(os.path.dirname(self.folder))
            os.mkdir(self.folder, 0o700)
        return os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def make_room(self, n_bytes: int) -> None:
        """Raises a quota by what a call is given, so that this takes nothing from what the call may write."""
        if self.isolated and n_bytes > namespaces.SLACK_BYTES:
            namespaces.resize_scratch(n_bytes + self.limits.max_scratch_bytes, self.limits.max_scratch_entries)

    def remove_last_folder(self) -> None:
        """Removes what the last call left; raises OSError where that fails, and the worker must not go on."""
        if not self.isolated and os.path.lexists(self.last_folder):
            scratch_lib.empty(self.last_folder)
            os.rmdir(self.last_folder)

    def end_strays(self) -> None:
        """Ends whatever a call left behind, though the filter lets it make no process: its orphans fall to us."""
        ours = {self.forker.pid, self.decoder.pid}
        while strays := [pid for pid in self.proc.children() if pid not in ours]:
            for stray in strays:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(stray, signal.SIGKILL)
                os.waitpid(stray, 0)


def _ask(
    proc: proc_lib.Proc, isolated: bool, number: int, forker: forker_lib.Forker, service: bytes, fds: Sequence[int]
) -> forker_lib.Birth:
    """Asks for a process; inside namespaces it gets the given number."""
    if isolated:
        forker.settle()  # what was asked for before has its number
        proc.number_next(number)
    return forker.ask(service, fds)


def make_home(
    root: str,
    isolated: bool,
    limits: limits_lib.Limits,
    plan: confine.Plan,
    base_bytes: int,
    max_image_px: int,
    proc: proc_lib.Proc,
) -> Home:
    """Makes the folder, the confinements and the forker of a worker that has not seen a request yet.

    Args:
      root: the worker's folder; unused inside namespaces.
      isolated, limits, plan, proc: as in :class:`Home`.
      base_bytes: address space that the worker has mapped.
      max_image_px: inclusive cap on the pixels of output images, each and together.
    """
    folder = namespaces.SCRATCH if isolated else os.path.join(root, "scratch", "call")
    if not isolated:
        os.mkdir(os.path.dirname(folder), 0o700)
    if not plan.seccomp:
        limits = dataclasses.replace(limits, forbids_processes=True)
    # Programs write what they do not want to os.devnull.
    writable = [os.path.dirname(folder), os.devnull]  # a call has but its own folder in it (Confinement.narrow)
    hold = confine.Confinement(plan, plan.readable, writable)
    without_files = confine.Confinement(plan, (), ())
    place = child.Place(folder, limits, hold, base_bytes, os.getpid(), isolated)
    services = {
        _CALL: functools.partial(child.run, place),
        _DECODER: functools.partial(
            decoder_lib.run, without_files, base_bytes, limits.max_file_bytes, max_image_px, os.getpid()
        ),
    }
    forker = forker_lib.Forker(services, hold.fds + without_files.fds, functools.partial(_prepare, proc))

    def fork_decoder(fds: Sequence[int]) -> int:
        birth = _ask(proc, isolated, _FIRST_DECODER, forker, _DECODER, fds)
        forker.settle()
        return birth.pid

    decoder = decoder_lib.Decoder(fork_decoder, limits.max_file_bytes, max_image_px)
    return Home(folder, os.path.join(root, "last"), isolated, limits, plan, proc, forker, decoder)


def _prepare(proc: proc_lib.Proc) -> None:
    """Lets the forker, and what it forks, end first where memory runs out."""
    with contextlib.suppress(OSError):
        proc.write("self/oom_score_adj", b"1000")


class Spare:
    """A child that waits for its request, confined, in the scratch folder; asked for ahead of the call.

    Attributes:
      request: the trainer's end of the channel to the child, until it is handed over.
      out_fd, note_fd, err_fd: what is printed; how the code ended; what goes to standard error.
      folder_fd: the scratch folder.
      is_over: whether the child has been waited for.
    """

    def __init__(self, home: Home):
        """Asks for the child; it is there from :meth:`await_birth` on."""
        self._home = home
        self.folder_fd = home.open_folder()
        self.request, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        pipes = [os.pipe() for _ in range(3)]
        fds = [theirs.fileno(), *(write for _, write in pipes)]
        self._birth = _ask(home.proc, home.isolated, _FIRST_CALL, home.forker, _CALL, fds)
        theirs.close()
        for read, write in pipes:
            os.close(write)
            os.set_blocking(read, False)
        self.out_fd, self.note_fd, self.err_fd = (read for read, _ in pipes)
        self.pid_fd = self._tasks_fd = -1
        self.is_over = False

    @property
    def pid(self) -> int:
        """Number of the child."""
        return self._birth.pid

    def await_birth(self) -> None:
        """Waits until the child is there; raises OSError or EOFError where it cannot be."""
        self._home.forker.settle()
        self.pid_fd = os.pidfd_open(self.pid)

    def hand_over(self, largest: int) -> int:
        """Gets the child ready for a request.

        Args:
          largest: bytes of the largest file that the call is given: one may write as much.

        Returns:
          Descriptor of the trainer's end of the channel to the child.
        """
        limits_lib.bound_files(self.pid, max(largest, self._home.limits.max_file_bytes))
        if self._home.isolated:  # its threads are numbered from the child's own number on
            self._home.proc.number_next(self.pid + 1)
        return self.request.fileno()

    def n_threads(self) -> int:
        """Threads of the running child; 0 where the host does not show them, or it is gone."""
        if self._tasks_fd < 0:
            self._tasks_fd = self._home.proc.open_tasks(self.pid_fd)
        if self._tasks_fd < 0:
            return 0
        with contextlib.suppress(OSError):
            n_links = os.fstat(self._tasks_fd).st_nlink  # the folder itself, its name, and a folder a thread
            return n_links - 2 if n_links > 2 else len(os.listdir(self._tasks_fd))
        return 0

    def kill(self) -> None:
        """Ends the child and, where it could fork after all, its group."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pid_fd, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def wait(self) -> tuple[int, resource.struct_rusage]:
        """Waits for the child's end; returns its status and what it used. Nothing of the call runs behind this."""
        _, status, usage = os.wait4(self.pid, 0)
        self.is_over = True
        self._home.end_strays()
        return status, usage

    def discard(self) -> None:
        """Ends the child if it has not been waited for, and frees the descriptors.

        A child of which the worker has not heard yet is left alone: the worker is about to end, and it ends with it.
        """
        if not self.is_over and self.pid_fd >= 0:
            self.kill()
            self.wait()
        self.request.close()
        for fd in (self.pid_fd, self.out_fd, self.note_fd, self.err_fd, self.folder_fd, self._tasks_fd):
            if fd >= 0:
                os.close(fd)
