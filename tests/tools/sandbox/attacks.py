"""Attacks on the sandbox: programs that print BREACH where they got what they must not get.

Each lies in a text below a heading ``## name | statuses @level``. Where statuses are given, the call must end as one
of them, else any but infra will do; where a level is given, only that one withstands. The word ``twice`` beside the
statuses: what it prints must be the same before an earlier call and behind it. ``T`` names the targets outside
(attack_run.py).
"""

import dataclasses
import json

import attacks_channels
import attacks_files
import attacks_kernel
import attacks_neighbours
import attacks_output
import attacks_resources
import attacks_second

PRELUDE = """
import ctypes, errno, os, signal, socket, struct, sys, threading, time, mmap, platform
T = {targets}
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
X86 = platform.machine() == 'x86_64'
def breach(what=''):
    sys.__stdout__.write('BREACH %s' % (what,))
    sys.__stdout__.flush()
    os._exit(0)
def must(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
def sys_call(x86, arm, *args):
    args = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    return must(libc.syscall(ctypes.c_long(x86 if X86 else arm), *args))
def reach(x86, arm, *args):  # any answer but the filter's is the kernel's own, whether it has the call or not
    try: sys_call(x86, arm, *args)
    except OSError as e:
        if e.errno == errno.EPERM: raise
    breach()
def tried(attempt, *args):  # in a table: a refusal does not end the others
    try: return attempt(*args)
    except OSError: pass
def reach_socket(*kind):
    try: socket.socket(*kind)
    except OSError as e:
        if e.errno == errno.EPERM: raise
    breach()
"""
N_PRELUDE_LINES = PRELUDE.count("\n")
FAMILIES = {
    "resources": attacks_resources.TEXT,
    "files": attacks_files.TEXT,
    "kernel": attacks_kernel.TEXT,
    "output": attacks_output.TEXT,
    "neighbours": attacks_neighbours.TEXT,
    "channels": attacks_channels.TEXT,
    "second": attacks_second.TEXT,
}
HELPERS = {"neighbours": attacks_neighbours.HELPERS, "second": attacks_second.HELPERS}  # behind the common ones
PLANTED = ("neighbours", "channels")  # families before whose attacks a call with canaries is made


@dataclasses.dataclass(frozen=True)
class Attack:
    """One program; ``statuses`` are those that the call may end with."""

    family: str
    name: str
    source: str
    statuses: tuple[str, ...]
    level: str = ""  # the only level that withstands
    is_twice: bool = False

    @property
    def is_planted(self) -> bool:
        """Whether a call with canaries comes before it."""
        return self.family in PLANTED

    def code(self, targets: dict) -> str:
        return PRELUDE.replace("{targets}", json.dumps(targets)) + HELPERS.get(self.family, "") + self.source


def read_all() -> list[Attack]:
    """All attacks, in the order of the texts."""
    found = []
    for family, text in FAMILIES.items():
        for part in text.split("\n## ")[1:]:
            heading, _, source = part.partition("\n")
            name, _, statuses = heading.partition("|")
            statuses, _, level = statuses.partition("@")
            words = statuses.replace(",", " ").split()
            statuses = tuple(word for word in words if word != "twice") or ("ok", "error", "limit")
            found.append(Attack(family, name.strip(), source, statuses, level, "twice" in words))
    names = [attack.name for attack in found]
    assert len(names) == len(set(names)), "two attacks of one name"
    return found
