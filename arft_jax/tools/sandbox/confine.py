"""What the kernel refuses to a child beyond numbers: new privileges, being traced, fork and exec.

This module is the boundary at which the sandbox hardens: file-system rules (Landlock), a full system call
list (seccomp) and namespaces belong here, behind the same three functions. What stands here keeps one
SIGKILL sufficient: a child that can neither fork nor exec leaves nothing behind.

Sources: prctl(2), seccomp(2); https://www.kernel.org/doc/html/latest/userspace-api/seccomp_filter.html
"""

import ctypes
import errno
import os
import struct

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP = 1, 4, 22
_PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 36, 38
_SECCOMP_MODE_FILTER = 2
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _RETURN, _JUMP_EQ, _JUMP_GE, _JUMP_SET = 0x20, 0x06, 0x15, 0x35, 0x45  # classic BPF opcodes
_NR_AT, _ARCH_AT, _ARG0_AT = 0, 4, 16  # offsets in struct seccomp_data
_CLONE_THREAD = 0x00010000
_CLONE3 = 435  # the same number everywhere

# machine: (audit architecture, clone, calls refused with EPERM)
_MACHINES = {
    "x86_64": (0xC000003E, 56, (57, 58, 59, 322)),  # fork, vfork, execve, execveat
    "aarch64": (0xC00000B7, 220, (221, 281)),  # execve, execveat
}
_X32_BIT = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    _fields_ = (("n", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _prctl(option: int, *args: int) -> None:
    padded = [ctypes.c_ulong(value) for value in (*args, 0, 0, 0, 0)[:4]]
    if _libc.prctl(option, *padded) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), f"prctl {option}")


def die_with_parent(parent_pid: int, signal_number: int) -> None:
    """Asks for a signal when the parent *thread* ends; exits at once where it has ended already."""
    _prctl(_PR_SET_PDEATHSIG, signal_number)
    if os.getppid() != parent_pid:
        os._exit(0)


def be_reaper() -> None:
    """Makes orphans of this process's children its own, so that they can be found and ended."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def shut_privileges() -> None:
    """No set-uid gains, no core dump, no tracing by processes of the same user."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_DUMPABLE, 0)


def fork_filter(machine: str) -> bytes | None:
    """The BPF program that refuses fork and exec and lets threads pass, or None for an unknown machine.

    clone3 hides its flags behind a pointer, so it answers ENOSYS and the C library falls back to clone.
    """
    if machine not in _MACHINES:
        return None
    arch, clone, refused = _MACHINES[machine]
    steps = [
        (_LOAD, 0, 0, _ARCH_AT),
        (_JUMP_EQ, 1, 0, arch),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NR_AT),
    ]
    if machine == "x86_64":
        steps += [(_JUMP_GE, 0, 1, _X32_BIT), (_RETURN, 0, 0, _KILL)]
    for number in refused:
        steps += [(_JUMP_EQ, 0, 1, number), (_RETURN, 0, 0, _ERRNO | errno.EPERM)]
    steps += [
        (_JUMP_EQ, 0, 1, _CLONE3),
        (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),
        (_JUMP_EQ, 0, 3, clone),
        (_LOAD, 0, 0, _ARG0_AT),
        (_JUMP_SET, 1, 0, _CLONE_THREAD),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


_FILTER = fork_filter(os.uname().machine)


def forbid_fork() -> bool:
    """Refuses fork and exec from now on; returns False where this kernel or machine cannot."""
    if _FILTER is None:
        return False
    program = _Program(len(_FILTER) // 8, _FILTER)
    try:
        _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(program))
    except OSError:
        return False
    return True
