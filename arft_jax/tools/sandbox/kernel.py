"""The C library's door to the kernel, for what Python has no function for."""

import ctypes
import os
import signal

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_held = ctypes.PyDLL(None, use_errno=True)  # the same, without letting go of the interpreter's lock
_held.syscall.restype = ctypes.c_long

_CLONE_PARENT = 0x8000
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP = 1, 4, 24
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38


def _fail(what: str) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code), what)


def syscall(name: str, number: int, *args: object) -> int:
    """Makes a system call; integers are passed as 64-bit words.

    Raises:
      OSError: with the call's errno.
    """
    words = [ctypes.c_ulong(arg) if isinstance(arg, int) else arg for arg in args]
    result = _libc.syscall(ctypes.c_long(number), *words)
    if result < 0:
        raise _fail(name)
    return result


def clone_sibling(number: int) -> int:
    """Forks this process, which must have one thread; the new one is a child of this one's *parent*.

    ``os.fork`` knows no flags. What it does beyond the call is of locks and other threads: there are none.

    Args:
      number: of the call ``clone``.

    Returns:
      The new process's id, and 0 in the new process.

    Raises:
      OSError: where the kernel refuses.
    """
    flags = ctypes.c_ulong(_CLONE_PARENT | signal.SIGCHLD)
    pid = _held.syscall(ctypes.c_long(number), flags, None, None, None, None)
    if pid < 0:
        raise _fail("clone")
    return pid


def prctl(option: int, *args: int) -> None:
    """``prctl(2)``; raises OSError."""
    padded = [ctypes.c_ulong(value) for value in (*args, 0, 0, 0, 0)[:4]]
    if _libc.prctl(option, *padded) != 0:
        raise _fail(f"prctl {option}")


def unshare(flags: int) -> None:
    """``unshare(2)``; raises OSError."""
    if _libc.unshare(ctypes.c_int(flags)) != 0:
        raise _fail("unshare")


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    """``mount(2)``; raises OSError."""
    texts = [None if text is None else os.fsencode(text) for text in (source, target, kind, options)]
    if _libc.mount(texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3]) != 0:
        raise _fail(f"mount {target}")


def unmount(target: str, flags: int) -> None:
    """``umount2(2)``; raises OSError."""
    if _libc.umount2(os.fsencode(target), ctypes.c_int(flags)) != 0:
        raise _fail(f"umount {target}")
