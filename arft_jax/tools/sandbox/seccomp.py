"""The list of system calls that model-written code may make, as a classic BPF program for seccomp.

Everything that is not on the list is refused with EPERM, so that libraries see an ordinary error. What
shaped the list:

* No fork and no exec, so that one SIGKILL leaves nothing behind. clone3 hides its flags behind a pointer:
  it answers ENOSYS, as does openat2, and the C library falls back to the older calls.
* No executable memory can be made, so no machine code of the policy's own ever runs; a shared object that
  is not loaded already cannot be loaded.
* Signals reach the calling process alone. ``fcntl`` is held to harmless commands, because F_SETOWN and
  F_SETSIG send any signal, SIGKILL too, to any process of the same user.
* Modes, owners, times and extended attributes of files are no business of Landlock's: changing modes and
  times answers success and does nothing (``shutil.copy`` wants it), the others are refused.
* Nothing that two calls on one host could tell each other anything by, time aside: no locks on files, no futex in
  shared memory (a library's pages are shared by all), no merging of equal pages, no figures of the whole host (free
  memory, free blocks, tasks, huge pages, mounts by ``statx``), no question about other processes (a negative clock
  is the processor time of one), none whether a file is in the page cache (``preadv2`` and ``getrusage`` answer it,
  advice on a file would empty it), no pipes, whose numbers count those of all processes. ``close_range`` may not
  unshare the table of descriptors, which would hide files from the watch.
* Opening for truncation needs an access mode that Landlock checks: before its version 3 it let
  ``O_RDONLY | O_TRUNC`` and the access mode 3 empty a file that is only to be read.

Sources: seccomp(2), fcntl(2), clone(2), open(2), futex(2), madvise(2), close_range(2), readv(2), clock_gettime(2);
https://www.kernel.org/doc/html/latest/userspace-api/seccomp_filter.html
"""

import ctypes
import dataclasses
import errno
import os
import struct

from arft_jax.tools.sandbox import kernel
from arft_jax.tools.sandbox.syscalls import ARCHITECTURES, NUMBERS, X32_BIT

ALLOW, KILL_PROCESS, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _AND, _RETURN, _JUMP_EQ, _JUMP_GE = 0x20, 0x54, 0x06, 0x15, 0x35  # classic BPF opcodes
_NR_AT, _ARCH_AT, _ARGS_AT = 0, 4, 16  # offsets in struct seccomp_data, bytes
_WORD = 0xFFFFFFFF
_SET_MODE_FILTER, _TSYNC = 1, 1

FREE = """
read write close stat fstat lstat poll lseek munmap brk rt_sigaction rt_sigprocmask rt_sigreturn pread64
pwrite64 readv writev preadv pwritev access select sched_yield mremap msync dup dup2 dup3 nanosleep getitimer
alarm setitimer getpid exit uname fsync fdatasync ftruncate getdents getdents64 getcwd chdir fchdir rename
renameat renameat2 mkdir mkdirat rmdir unlink unlinkat readlink readlinkat umask gettimeofday getrlimit times
time getuid getgid geteuid getegid getppid getpgrp getgroups getresuid getresgid sigaltstack gettid
sched_get_priority_max sched_get_priority_min set_tid_address restart_syscall exit_group newfstatat faccessat
faccessat2 pselect6 ppoll set_robust_list getrandom rseq membarrier copy_file_range sendfile eventfd2
epoll_create1 epoll_ctl epoll_wait epoll_pwait rt_sigpending rt_sigtimedwait rt_sigsuspend getcpu creat
""".split()

ANSWERS = {  # calls that are not made, and the errno that is answered: 0 pretends success
    0: "chmod fchmod fchmodat fchmodat2 utimensat utime utimes futimesat sched_setaffinity fadvise64".split(),
    errno.ENOSYS: "clone3 openat2 preadv2 pwritev2 statx".split(),
    errno.ENOTSUP: (
        "getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr setxattr lsetxattr fsetxattr "
        "removexattr lremovexattr fremovexattr"
    ).split(),
}

_CLONE_THREAD, _CLONE_NAMESPACES = 0x00010000, 0x7E020080
_CLONE_FILES = 0x400  # a thread with descriptors of its own could keep deleted files that the watch does not see
_PROT_EXEC, _MAP_HUGETLB = 4, 0x40000
_CLOCKS = tuple(range(12))  # a negative one is the processor time of any process
_O_ACCMODE, _O_TRUNC = 0o3, 0o1000
_OPEN_MODES = (0, 1, 2, _O_TRUNC | 1, _O_TRUNC | 2)
# DUPFD, GETFD, SETFD, GETFL, SETFL, DUPFD_CLOEXEC, GETPIPE_SZ
_FCNTL_COMMANDS = (0, 1, 2, 3, 4, 1030, 1032)
_FUTEX_PRIVATE = 128
# NORMAL, RANDOM, SEQUENTIAL, WILLNEED, DONTNEED, FREE, DONTFORK, DOFORK, HUGEPAGE, NOHUGEPAGE, DONTDUMP, DODUMP
_ADVICES = (0, 1, 2, 3, 4, 8, 10, 11, 14, 15, 16, 17)
# TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX
_IOCTL_REQUESTS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)


@dataclasses.dataclass(frozen=True)
class Test:
    """Holds where ``word & mask`` is one of ``values``; word is a 32-bit half of an argument."""

    arg: int
    values: tuple[int, ...]
    mask: int = _WORD
    high: bool = False


def _rules(pid: int) -> dict[str, tuple[tuple[Test, ...], int]]:
    """Calls that pass where all tests hold, and the errno where not."""
    to_self = (Test(0, (pid,)),), errno.EPERM
    of_self = (Test(0, (0, pid)),), errno.EPERM
    no_code = (Test(2, (0,), _PROT_EXEC),), errno.EPERM
    thread = _CLONE_THREAD | _CLONE_FILES
    return {
        "clone": ((Test(0, (thread,), thread | _CLONE_NAMESPACES),), errno.EPERM),
        **dict.fromkeys(("clock_gettime", "clock_getres", "clock_nanosleep"), ((Test(0, _CLOCKS),), errno.EINVAL)),
        "kill": to_self,
        "tgkill": to_self,
        "mmap": (no_code[0] + (Test(3, (0,), _MAP_HUGETLB),), errno.EPERM),
        "mprotect": no_code,
        "open": ((Test(1, _OPEN_MODES, _O_ACCMODE | _O_TRUNC),), errno.EPERM),
        "openat": ((Test(2, _OPEN_MODES, _O_ACCMODE | _O_TRUNC),), errno.EPERM),
        "fcntl": ((Test(1, _FCNTL_COMMANDS),), errno.EPERM),
        "ioctl": ((Test(1, _IOCTL_REQUESTS),), errno.ENOTTY),
        # Limits may be read, of this process alone, and not set.
        "close_range": ((Test(2, (0,)),), errno.EPERM),
        "madvise": ((Test(2, _ADVICES),), errno.EPERM),
        # What the C library waits for so (the end of a thread) it asks for again until it is there.
        "futex": ((Test(1, (_FUTEX_PRIVATE,), _FUTEX_PRIVATE),), errno.EAGAIN),
        "getpriority": ((Test(0, (0,)), Test(1, (0, pid))), errno.EPERM),
        **dict.fromkeys(("getpgid", "getsid", "sched_getaffinity", "sched_getparam", "sched_getscheduler"), of_self),
        "prlimit64": ((Test(0, (0, pid)), Test(2, (0,)), Test(2, (0,), high=True)), errno.EPERM),
    }


def _body(tests: tuple[Test, ...], code: int) -> list[tuple[int, int, int, int]]:
    """Instructions that end in ALLOW where all tests hold and in the errno where one does not."""
    steps: list[tuple[int, int, int, int]] = []
    for test in tests:
        steps.append((_LOAD, 0, 0, _ARGS_AT + 8 * test.arg + 4 * test.high))
        if test.mask != _WORD:
            steps.append((_AND, 0, 0, test.mask))
        n = len(test.values)
        # A value that matches jumps over the other values and the refusal.
        steps += [(_JUMP_EQ, n - i, 0, value) for i, value in enumerate(test.values)]
        steps.append((_RETURN, 0, 0, ERRNO | code))
    return [*steps, (_RETURN, 0, 0, ALLOW)]


def build(machine: str, pid: int) -> bytes:
    """The filter of one process.

    Args:
      machine: ``x86_64`` or ``aarch64``.
      pid: the process's own id, as it sees it itself.

    Returns:
      The program: 8 bytes an instruction.

    Raises:
      ValueError: for another machine.
    """
    if machine not in NUMBERS:
        raise ValueError(f"the sandbox knows the machines {sorted(NUMBERS)}: got {machine!r}")
    numbers = NUMBERS[machine]
    steps = [
        (_LOAD, 0, 0, _ARCH_AT),
        (_JUMP_EQ, 1, 0, ARCHITECTURES[machine]),
        (_RETURN, 0, 0, KILL_PROCESS),
        (_LOAD, 0, 0, _NR_AT),
    ]
    if machine == "x86_64":
        steps += [(_JUMP_GE, 0, 1, X32_BIT), (_RETURN, 0, 0, KILL_PROCESS)]
    for name in FREE:
        if name in numbers:
            steps += [(_JUMP_EQ, 0, 1, numbers[name]), (_RETURN, 0, 0, ALLOW)]
    for code, names in ANSWERS.items():
        for name in names:
            if name in numbers:
                steps += [(_JUMP_EQ, 0, 1, numbers[name]), (_RETURN, 0, 0, ERRNO | code)]
    for name, (tests, code) in _rules(pid).items():
        if name in numbers:
            body = _body(tests, code)
            steps += [(_JUMP_EQ, 0, len(body), numbers[name]), *body]
    steps.append((_RETURN, 0, 0, ERRNO | errno.EPERM))
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


class _Program(ctypes.Structure):
    _fields_ = (("n", ctypes.c_ushort), ("filter", ctypes.c_char_p))


_ANY_PID = 0x5A17C0DE  # stands for the pid until it is known; no number in a filter looks like it


def template() -> bytes:
    """The filter of this machine, for :func:`restrict`: built once, before the processes that it holds exist."""
    return build(os.uname().machine, _ANY_PID)


def restrict(code: bytes) -> None:
    """Holds every thread of this process to the list from now on. Needs ``no_new_privs``.

    Raises:
      OSError: where the kernel has no seccomp filters, or this process may not install one.
    """
    code = code.replace(struct.pack("=I", _ANY_PID), struct.pack("=I", os.getpid()))
    program = _Program(len(code) // 8, code)
    number = NUMBERS[os.uname().machine]["seccomp"]
    kernel.syscall("seccomp", number, _SET_MODE_FILTER, _TSYNC, ctypes.byref(program))
