"""How strongly the sandbox holds: the levels, what each needs, how it is worded, and what to do where none does.

| level | what holds it |
|---|---|
| L1 | own user, mount, pid and network namespaces with a tmpfs per call, and what L0 has of it |
| L0 | Landlock, seccomp and limits, unprivileged |
| outer:NAME | declared: NAME (gvisor, vm, ...) around the trainer holds; inside it, whatever of L0 the host grants |
| unsafe | the same without the declaration: an override, to be recorded with all that comes of it |
"""

import os
import re
from collections.abc import Mapping, Sequence

from arft_jax.tools.sandbox.confine import Plan

AUTO, L1, L0, OUTER, UNSAFE = "auto", "L1", "L0", "outer", "unsafe"
CHOICES = (AUTO, L1, L0, f"{OUTER}:NAME", UNSAFE)
BWRAP = "bwrap"
WRAPPERS = ("", BWRAP)

_USERNS_SWITCHES = (  # file, value that forbids, cure
    ("/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
    ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1",
     "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"),
    ("/proc/sys/user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=10000"),
)  # fmt: skip


_DECLARED = re.compile(rf"{OUTER}:([\w.-]{{1,40}})", re.ASCII)


class DoesNotHold(Exception):
    """The host does not grant what a level needs."""


class NoneHolds(RuntimeError):
    """No level that was asked for holds on this host; the message says what to do."""


def candidates(level: str, override: bool = False) -> tuple[tuple[str, ...], str]:
    """Levels to try, strongest first, and what is declared to stand around the trainer.

    >>> candidates("auto", override=True), candidates("outer:gvisor")
    ((('L1', 'L0', 'unsafe'), ''), (('outer',), 'gvisor'))

    Args:
      level: one of CHOICES.
      override: whether to run without any, where none holds.

    Raises:
      ValueError: for a level that is none.
    """
    declared = _DECLARED.fullmatch(level)
    if level not in (AUTO, L1, L0, UNSAFE) and not declared:
        raise ValueError(
            f"the sandbox's level must be one of {', '.join(CHOICES)}: got {level!r} (config.tools.sandbox.level)"
        )
    wanted = (L1, L0) if level == AUTO else (OUTER,) if declared else (level,)
    if override and wanted[-1] not in (OUTER, UNSAFE):
        wanted += (UNSAFE,)
    return wanted, declared[1] if declared else ""


def check(level: str, plan: Plan, faults: Sequence[str]) -> None:
    """Refuses a level whose parts are missing.

    Raises:
      DoesNotHold: L0 without Landlock or seccomp; L1 without seccomp (its file system is its own).
    """
    if level in (L0, L1) and not plan.seccomp or level == L0 and not plan.landlock:
        raise DoesNotHold("; ".join(faults))


def stamp(level: str, declared: str = "", wrapper: str = "") -> str:
    """What is recorded with all that is made: a few words.

    >>> stamp("L1"), stamp("L0", wrapper="bwrap"), stamp("outer", "gvisor"), stamp("unsafe")
    ('L1', 'L0 in bwrap', 'outer:gvisor', 'none (override)')
    """
    name = {OUTER: f"{OUTER}:{declared}", UNSAFE: "none (override)"}.get(level, level)
    return f"{name} in {wrapper}" if wrapper else name


def line(level: str, parts: Mapping, declared: str = "", wrapper: str = "", breaches: Sequence[str] = ()) -> str:
    """One line for a log.

    >>> line("L1", {"isolated": True, "landlock": 7, "seccomp": True})
    'sandbox: L1 (userns, landlock 7, seccomp)'
    >>> line("unsafe", {"isolated": False, "landlock": 0, "seccomp": True}, breaches=("read a file",))
    'sandbox: unsafe (no landlock, seccomp; NOT HELD: read a file)'
    """
    words = [f"declared: {declared}"] if level == OUTER else []
    words += [wrapper] if wrapper else []
    words += ["userns"] if parts["isolated"] else []
    words.append(f"landlock {parts['landlock']}" if parts["landlock"] else "no landlock")
    words.append("seccomp" if parts["seccomp"] else "no seccomp")
    tail = f"; NOT HELD: {', '.join(breaches)}" if breaches else ""
    return f"sandbox: {level} ({', '.join(words)}{tail})"


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as f:
            return f.read().strip()
    except OSError:
        return ""


def _cures(faults: Mapping[str, str]) -> list[str]:
    """What an administrator can do, the exact command where this host tells it."""
    cures = [cure for path, forbids, cure in _USERNS_SWITCHES if _read(path) == forbids]
    if L1 in faults and not cures:
        cures.append(
            "allow user namespaces (in Docker: --security-opt seccomp=PROFILE, with clone, unshare, mount, umount2 and "
            "pivot_root allowed)"
        )
    modules = _read("/sys/kernel/security/lsm")
    if L0 in faults and "Landlock" in faults[L0]:
        if modules and "landlock" not in modules:
            cures.append(f"boot a kernel from 5.13 on with Landlock switched on: lsm=landlock,{modules}")
        else:
            cures.append(
                "run on a kernel from 5.13 on with CONFIG_SECURITY_LANDLOCK, in a container whose filter allows "
                "landlock_create_ruleset, landlock_add_rule and landlock_restrict_self"
            )
    if any("seccomp" in fault for fault in faults.values()):
        cures.append("run on x86_64 or aarch64 with CONFIG_SECCOMP_FILTER")
    return cures


def remedy(faults: Mapping[str, str]) -> str:
    """Why no level holds and what to do about it.

    Args:
      faults: for each level that was tried, what was missing.
    """
    tried = "; ".join(f"{level}: {fault}" for level, fault in faults.items())
    cures = "; or ".join(_cures(faults)) or "see docs/sandbox.md"
    return (
        f"the Python sandbox must hold model-written code and does not on this host ({os.uname().release}): {tried}. "
        f"Remedy: {cures}; or run the trainer inside gVisor or a virtual machine and declare it, '{OUTER}:gvisor' for "
        "example (config.tools.sandbox.level); config.tools.sandbox.override=True runs anyway, which is recorded with "
        "every trajectory."
    )
