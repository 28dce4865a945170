"""Which files a call may touch: Landlock, for an unprivileged process, without any package.

Rights that the running kernel does not know are left out; system calls that only newer versions cover
are refused by seccomp.py. Two more rules come with newer kernels: no TCP (version 4), no signals and
abstract sockets to the outside (version 6).

Source: https://docs.kernel.org/userspace-api/landlock.html
"""

import ctypes
import os
import stat
import struct
from collections.abc import Sequence

from arft_jax.tools.sandbox import kernel

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same on every machine
_WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REG = 1 << 4, 1 << 5, 1 << 7, 1 << 8
_REFER, _TRUNCATE = 1 << 13, 1 << 14
_READ = _READ_FILE | _READ_DIR
_WRITE = _READ | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _REFER | _TRUNCATE
_OF_FILES = _READ_FILE | _WRITE_FILE | _TRUNCATE
_N_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}  # version: rights on files that it knows
_NEWEST_RIGHTS = 16
_NO_TCP, _SCOPED = 0b11, 0b11
_PATH_BENEATH = 1


def version() -> int:
    """Version of the kernel's Landlock, from 1.

    Raises:
      OSError: ENOSYS where it is not built in, EOPNOTSUPP where it is switched off, EPERM where a filter denies it.
    """
    return kernel.syscall("landlock_create_ruleset", _CREATE, None, 0, 1)


def _add(ruleset: int, path: str, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # nothing there to be allowed
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= _OF_FILES
        rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, fd))
        kernel.syscall("landlock_add_rule", _ADD, ruleset, _PATH_BENEATH, rule, 0)
    finally:
        os.close(fd)


def _known(abi: int) -> int:
    return (1 << _N_RIGHTS.get(abi, _NEWEST_RIGHTS)) - 1


def _create(words: Sequence[int]) -> int:
    attributes = ctypes.create_string_buffer(struct.pack(f"={len(words)}Q", *words), 8 * len(words))
    return kernel.syscall("landlock_create_ruleset", _CREATE, attributes, 8 * len(words), 0)


def make_ruleset(abi: int, readable: Sequence[str], writable: Sequence[str]) -> int:
    """Rules on files, as a descriptor; any number of processes may take them on.

    Args:
      abi: the kernel's version.
      readable: files and folders, with all below them, that may be read; missing ones are skipped.
      writable: those that may also be written, made and removed, as regular files and folders. What is mounted
        on a folder below one of them, also later, counts too.

    Raises:
      OSError: where the kernel refuses.
    """
    known = _known(abi)
    words = (known,) if abi < 4 else (known, _NO_TCP) if abi < 6 else (known, _NO_TCP, _SCOPED)
    ruleset = _create(words)
    for path in readable:
        _add(ruleset, path, _READ & known)
    for path in writable:
        _add(ruleset, path, _WRITE & known)
    return ruleset


def restrict(ruleset: int) -> None:
    """Holds this process to the rules from now on. Needs ``no_new_privs``; raises OSError where the kernel refuses."""
    kernel.syscall("landlock_restrict_self", _RESTRICT, ruleset, 0)


def narrow(abi: int, writable: Sequence[str]) -> None:
    """Takes rules on, on top of those that hold, that leave reading as it is and writing to these places alone.

    Args:
      abi: the kernel's version.
      writable: files and folders, with all below them.

    Raises:
      OSError: where the kernel refuses.
    """
    rights = _WRITE & ~_READ & _known(abi)
    ruleset = _create((rights,))
    try:
        for path in writable:
            _add(ruleset, path, rights)
        restrict(ruleset)
    finally:
        os.close(ruleset)
