"""What one call may use: the numbers, and the kernel limits (setrlimit) that the child takes on."""

import dataclasses
import math
import os
import re
import resource

_N_OWN_PROCESSES = 4  # of the worker's namespace: the one that waits outside, the worker, the forker, the decoder


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of one call.

    Args:
      timeout_s: wall-clock seconds.
      memory_bytes: address space on top of what the worker has mapped already.
      max_output_bytes: printed bytes that are kept.
      max_flood_bytes: printed bytes at which the call is ended.
      max_file_bytes: size of any one file.
      max_scratch_bytes: size of all files in the scratch folder together.
      max_scratch_entries: files and folders in it.
      max_descriptors: open descriptors.
      max_threads: threads that run at the same time, the first one counted.
      forbids_processes: neither processes nor threads are made, by RLIMIT_NPROC.
    """

    timeout_s: float
    memory_bytes: int
    max_output_bytes: int
    max_flood_bytes: int
    max_file_bytes: int
    max_scratch_bytes: int
    max_scratch_entries: int = 256
    max_descriptors: int = 64
    max_threads: int = 64
    forbids_processes: bool = False

    def to_json(self) -> dict:
        """The fields, for the worker's command line; ``Limits(**fields)`` reads them back."""
        return dataclasses.asdict(self)


def mapped_bytes() -> int:
    """Address space of this process in bytes (``/proc/self/statm``)."""
    with open("/proc/self/statm", encoding="ascii") as f:
        return int(f.read().split()[0]) * resource.getpagesize()


def _lower(kind: int, soft: int, hard: int, pid: int = 0) -> None:
    """Sets a limit, of this process or of another one of this user, never above the one that already holds."""
    ceiling = resource.prlimit(pid, kind)[1]
    if ceiling != resource.RLIM_INFINITY:
        soft, hard = min(soft, ceiling), min(hard, ceiling)
    resource.prlimit(pid, kind, (soft, hard))


def bound_files(pid: int, n_bytes: int) -> None:
    """Bounds the size of any one file that a process writes from now on."""
    _lower(resource.RLIMIT_FSIZE, n_bytes, n_bytes, pid)


def _counts_by_namespace() -> bool:
    """Whether RLIMIT_NPROC counts the tasks of a user namespace apart from the user's others: since Linux 5.14."""
    numbers = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) >= (5, 14)


def apply(limits: Limits, base_bytes: int, isolated: bool) -> None:
    """Takes the kernel limits on, in the child; they cannot be raised again without privilege.

    CPU seconds are the second line behind the worker's clock. RLIMIT_NPROC counts every process and thread of the user,
    the trainer's too, and does not bind root. In a user namespace of the worker's own it is the second line behind the
    watch over threads; elsewhere it is set only where no filter forbids fork (seccomp.py), to 0.

    The size of files is bounded from outside (:func:`bound_files`), by what the call is given.

    Args:
      limits: the numbers.
      base_bytes: address space that the worker has mapped.
      isolated: whether the worker has a user namespace of its own.

    Source: user_namespaces(7), getrlimit(2).
    """
    cpu_s = math.ceil(limits.timeout_s) + 1
    memory = base_bytes + limits.memory_bytes
    _lower(resource.RLIMIT_CPU, cpu_s, cpu_s + 1)
    _lower(resource.RLIMIT_NOFILE, limits.max_descriptors, limits.max_descriptors)
    _lower(resource.RLIMIT_CORE, 0, 0)
    _lower(resource.RLIMIT_MEMLOCK, 0, 0)
    _lower(resource.RLIMIT_MSGQUEUE, 0, 0)
    _lower(resource.RLIMIT_SIGPENDING, 0, 0)
    if limits.forbids_processes:
        _lower(resource.RLIMIT_NPROC, 0, 0)
    elif isolated and _counts_by_namespace():
        n_tasks = limits.max_threads + _N_OWN_PROCESSES
        _lower(resource.RLIMIT_NPROC, n_tasks, n_tasks)
    _lower(resource.RLIMIT_AS, memory, memory)
