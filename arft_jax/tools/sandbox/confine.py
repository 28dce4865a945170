"""What the kernel refuses to a process of the sandbox, taken on in the right order.

Landlock (landlock.py) guards files, seccomp (seccomp.py) system calls, and what is done here the rest: no new
privileges, no capabilities, no core dump. Limits in numbers are in limits.py.

Sources: prctl(2), capabilities(7).
"""

import ctypes
import dataclasses
import os
import struct
from collections.abc import Sequence

from arft_jax.tools.sandbox import kernel, landlock, seccomp
from arft_jax.tools.sandbox.syscalls import NUMBERS

_CAPABILITY_VERSION_3 = 0x20080522
_N_CAPABILITIES = 64  # more than there are; the first unknown one ends the loop


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a worker takes on for its children.

    Args:
      landlock: version that is used, 0 for none.
      seccomp: whether system calls are filtered.
      readable: files and folders that a call may read.
    """

    landlock: int
    seccomp: bool
    readable: tuple[str, ...]


def die_with_parent(parent_pid: int, signal_number: int) -> None:
    """Asks for a signal when the parent *thread* ends; exits at once where it has ended already.

    Args:
      parent_pid: as this process sees it; 0 where the parent is outside its pid namespace.
      signal_number: the signal.
    """
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal_number)
    if os.getppid() != parent_pid:
        os._exit(0)


def be_reaper() -> None:
    """Makes orphans of this process's children its own, so that they can be found and ended."""
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)


def shut_privileges() -> None:
    """No gains from set-uid files; no tracing by processes of the same user."""
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)


def _drop_bounds() -> None:
    """Lets no program that is started from here gain a capability."""
    for number in range(_N_CAPABILITIES):
        try:
            kernel.prctl(kernel.PR_CAPBSET_DROP, number)
        except OSError:  # EINVAL: the one after the last; EPERM: there was none to drop
            break


class Confinement:
    """A plan made ready by the worker, so that taking it on costs a child four system calls.

    Args:
      plan: the parts.
      readable, writable: files and folders.

    Raises:
      OSError: where the kernel refuses the rules.
    """

    def __init__(self, plan: Plan, readable: Sequence[str], writable: Sequence[str]):
        self._landlock = plan.landlock
        self._ruleset = landlock.make_ruleset(plan.landlock, readable, writable) if plan.landlock else None
        self._filter = seccomp.template() if plan.seccomp else None
        self._capset = NUMBERS[os.uname().machine]["capset"]
        self._header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0))
        self._nothing = ctypes.create_string_buffer(24)
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        _drop_bounds()

    def guard_files(self) -> None:
        """Gives up files; first, while the descriptor of the rules is open."""
        if self._ruleset is not None:
            landlock.restrict(self._ruleset)

    def narrow(self, folder: str) -> None:
        """Gives up writing anywhere but in one of the writable folders, or below one, and to ``os.devnull``."""
        if self._landlock:
            landlock.narrow(self._landlock, [folder, os.devnull])

    def guard_calls(self) -> None:
        """Gives up capabilities and system calls; last, for setting up needs them."""
        kernel.syscall("capset", self._capset, self._header, self._nothing)
        # The worker, of the same user, must be able to see which deleted files the process still holds.
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
        if self._filter is not None:
            seccomp.restrict(self._filter)

    @property
    def fds(self) -> list[int]:
        """Descriptors that it needs until it has been taken on."""
        return [] if self._ruleset is None else [self._ruleset]


def survey(readable: tuple[str, ...]) -> tuple[Plan, list[str]]:
    """Tries in a child what this host grants.

    Returns:
      (the plan, for each part that is missing one sentence with the kernel's reason).
    """
    faults = []
    try:
        version = landlock.version()
    except OSError as error:
        version = 0
        faults.append(f"Landlock: {error.strerror}")
    best = Plan(version, True, readable)
    if not _holds(best):
        best = Plan(version, False, readable)
        faults.append("seccomp: this kernel or machine grants no filter")
        if not _holds(best):
            best = Plan(0, False, readable)
            faults.append("Landlock: a ruleset could not be taken on")
    return best, faults


def _holds(plan: Plan) -> bool:
    pid = os.fork()
    if pid == 0:
        try:
            trial = Confinement(plan, plan.readable, ())
            trial.guard_files()
            trial.guard_calls()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0
