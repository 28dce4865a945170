"""Takes a defence away, to see that something then goes wrong; and takes rights away, as containers do."""

import ctypes
import errno
import json
import os
import pathlib
import struct

from arft_jax.tools.sandbox import kernel, pool, seccomp
from arft_jax.tools.sandbox.syscalls import NUMBERS

_WEAK_WORKER = str(pathlib.Path(__file__).with_name("weak_worker.py"))
_SHORT_GRACE_S = 2.0  # a call that nothing ends is noticed soon


def choose(weak: str, abi: int) -> None:
    """Makes the pool start workers without the named defence (weak_worker.py), or with an older Landlock."""
    if not weak and not abi:
        return
    built, kept = pool._environment, dict(os.environ) if weak == "environment" else {}
    choice = {"ARFT_WEAK": json.dumps({"weak": weak, "abi": abi})}
    pool._environment = lambda root: kept | built(root) | choice
    pool._WORKER = _WEAK_WORKER
    if weak:
        pool._GRACE_S = _SHORT_GRACE_S
        pool.Pool.attempt_canaries = lambda self, worker: []  # they would notice


def deny_namespaces() -> None:
    """A filter as containers have it by default: no new namespaces, no mounts, for this process and all below it."""
    machine = os.uname().machine
    numbers = NUMBERS[machine]
    names = ("unshare", "setns", "mount", "umount2", "pivot_root", "fsopen", "open_tree", "move_mount")
    steps = [(0x20, 0, 0, 0)]
    for name in names:
        steps += [(0x15, 0, 1, numbers[name]), (0x06, 0, 0, seccomp.ERRNO | errno.EPERM)]
    steps += [(0x15, 0, 1, numbers["clone3"]), (0x06, 0, 0, seccomp.ERRNO | errno.ENOSYS)]
    steps += [(0x15, 0, 3, numbers["clone"]), (0x20, 0, 0, 16), (0x45, 0, 1, 0x7E020000)]
    steps += [(0x06, 0, 0, seccomp.ERRNO | errno.EPERM), (0x06, 0, 0, seccomp.ALLOW)]
    code = b"".join(struct.pack("=HBBI", *step) for step in steps)
    program = seccomp._Program(len(code) // 8, code)
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.syscall("seccomp", numbers["seccomp"], 1, 1, ctypes.byref(program))
