"""The filter, run by an interpreter of its instructions, for both machines: what passes, and how the rest is answered.

Calls are named by number here, from the kernel's tables and not from syscalls.py: a slip there is seen.
"""

import errno
import os
import struct

import pytest

from arft_jax.tools.sandbox import seccomp
from arft_jax.tools.sandbox.syscalls import NUMBERS

PID = 4321
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
MACHINES = tuple(ARCHITECTURES)
ALLOW, KILL = 0x7FFF0000, 0x80000000
ONES = ((1 << 64) - 1,) * 6
N_NUMBERS = 512  # the tables end below
EPERM = 0x00050000 | errno.EPERM

# name: (x86_64, aarch64)
NEVER = {
    "socket": (41, 198), "connect": (42, 203), "socketpair": (53, 199), "fork": (57, None), "vfork": (58, None),
    "execve": (59, 221), "execveat": (322, 281), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424), "pidfd_getfd": (438, 438), "unshare": (272, 97), "setns": (308, 268),
    "mount": (165, 40), "pivot_root": (155, 41), "chroot": (161, 51), "bpf": (321, 280), "seccomp": (317, 277),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_setup": (206, 0), "keyctl": (250, 219), "add_key": (248, 217),
    "memfd_create": (319, 279), "shmget": (29, 194), "prctl": (157, 167), "setrlimit": (160, 164),
    "truncate": (76, 45), "link": (86, None), "linkat": (265, 37), "symlinkat": (266, 36), "mknodat": (259, 33),
    "fchownat": (260, 54), "open_by_handle_at": (304, 265), "init_module": (175, 105), "kexec_load": (246, 104),
    "pkey_mprotect": (329, 288), "remap_file_pages": (216, 234), "setuid": (105, 146), "capset": (126, 91),
    "inotify_init1": (294, 26), "timer_create": (222, 107), "personality": (135, 92), "setsid": (112, 157),
    "splice": (275, 76), "vmsplice": (278, 75), "modify_ldt": (154, None), "iopl": (172, None),
    "flock": (73, 32), "sysinfo": (99, 179), "statfs": (137, 43), "fstatfs": (138, 44), "pipe": (22, None),
    "pipe2": (293, 59), "capget": (125, 90), "mincore": (27, 232), "cachestat": (451, 451),
    "getrusage": (98, 165), "get_robust_list": (274, 100), "kcmp": (312, 272), "futex_wake": (454, 454),
    "futex_wait": (455, 455),
}  # fmt: skip
ANSWERED = {
    "chmod": (90, None, 0), "fchmod": (91, 52, 0), "fchmodat": (268, 53, 0), "fchmodat2": (452, 452, 0),
    "utimensat": (280, 88, 0), "clone3": (435, 435, errno.ENOSYS), "openat2": (437, 437, errno.ENOSYS),
    "getxattr": (191, 8, errno.ENOTSUP), "setxattr": (188, 5, errno.ENOTSUP),
    "statx": (332, 291, errno.ENOSYS), "fadvise64": (221, 223, 0), "preadv2": (327, 286, errno.ENOSYS),
    "pwritev2": (328, 287, errno.ENOSYS),
}  # fmt: skip
CLONE, KILL_CALL, TGKILL, MMAP, MPROTECT = (56, 220), (62, 129), (234, 131), (9, 222), (10, 226)
OPEN, OPENAT, FCNTL, IOCTL, PRLIMIT = (2, None), (257, 56), (72, 25), (16, 29), (302, 261)
MADVISE, CLOSE_RANGE, FUTEX, GETPRIORITY = (28, 233), (436, 436), (202, 98), (140, 141)
GETPGID, GETSID, AFFINITY, PARAM, SCHEDULER = (121, 155), (124, 156), (204, 123), (143, 121), (145, 120)
# GETLK, SETLK, SETLKW, SETOWN, SETSIG, SETOWN_EX, the locks of open file descriptions, SETLEASE, NOTIFY, SETPIPE_SZ,
# ADD_SEALS
NO_COMMANDS = (5, 6, 7, 8, 10, 15, 36, 37, 38, 1024, 1026, 1031, 1033)
# MONOTONIC, PROCESS_CPUTIME, TAI; then the processor time of process 1, and of no clock
CLOCKS, OTHERS_CLOCKS = [(1,), (2,), (11,)], [((~1 << 3) | 2,), (12,)]
OF_CLOCKS = {"clock_gettime": (228, 113), "clock_getres": (229, 114), "clock_nanosleep": (230, 115)}
REFUSALS = {"ioctl": errno.ENOTTY, "futex": errno.EAGAIN} | dict.fromkeys(OF_CLOCKS, errno.EINVAL)
OF_SELF = [(0,), (PID,)], [(1,), (PID + 1,), (PID - 1,)]
THREAD = 0x003D0F00  # what the C library asks of clone for a thread: memory, files, signals, CLONE_THREAD ..
NAMESPACES = (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000, 0x00000080)
SOME_ARGUMENTS = {  # (numbers, arguments that pass, arguments that do not)
    "clone": (CLONE, [(THREAD,)], [(17,), (0,), *((THREAD | flag,) for flag in NAMESPACES)]),
    "kill": (KILL_CALL, [(PID, 9)], [(1, 9), (0, 9), (-1, 9), (-PID, 9), (PID + 1, 0)]),
    "tgkill": (TGKILL, [(PID, 7, 9)], [(1, 1, 9), (PID + 1, PID, 9)]),
    # MAP_PRIVATE | MAP_ANONYMOUS, and MAP_HUGETLB
    "mmap": (MMAP, [(0, 4096, 3, 0x22)], [(0, 4096, 4, 0x22), (0, 4096, 7, 0x22), (0, 4096, 3, 0x40022)]),
    "mprotect": (MPROTECT, [(4096, 4096, 1)], [(4096, 4096, 5)]),
    "open": (OPEN, [(1, 0), (1, 0o102), (1, 0o1001), (1, 0o1102)], [(1, 0o1000), (1, 3), (1, 0o1003)]),
    "openat": (OPENAT, [(-100, 1, 0), (-100, 1, 0o1101)], [(-100, 1, 0o1000), (-100, 1, 3), (-100, 1, 0o1003)]),
    # The kernel looks at 32 bits.
    "fcntl": (FCNTL, [(0, 0), (0, 4), (0, 1030)], [(0, n) for n in (*NO_COMMANDS, 1 << 32 | 10)]),
    # MERGEABLE, UNMERGEABLE, REMOVE, HWPOISON, PAGEOUT
    "madvise": (MADVISE, [(0, 0, 4), (0, 0, 14)], [(0, 0, n) for n in (9, 12, 13, 21, 100)]),
    "close_range": (CLOSE_RANGE, [(3, 9, 0)], [(3, 9, 2), (3, 9, 4), (3, 9, 6)]),
    # WAIT, WAKE and WAIT_BITSET with FUTEX_PRIVATE_FLAG and FUTEX_CLOCK_REALTIME; then without the first
    "futex": (FUTEX, [(0, 128), (0, 129), (0, 0x189)], [(0, 0), (0, 1), (0, 0x109), (0, 7)]),
    "getpriority": (GETPRIORITY, [(0, 0), (0, PID)], [(0, 1), (1, 0), (2, 0), (2, PID)]),
    "getpgid": (GETPGID, *OF_SELF),
    **{name: (number, CLOCKS, OTHERS_CLOCKS) for name, number in OF_CLOCKS.items()},
    "getsid": (GETSID, *OF_SELF),
    "sched_getaffinity": (AFFINITY, *OF_SELF),
    "sched_getparam": (PARAM, *OF_SELF),
    "sched_getscheduler": (SCHEDULER, *OF_SELF),
    # TIOCSTI, FIOASYNC, FIOSETOWN, FICLONE
    "ioctl": (IOCTL, [(0, 0x5401), (0, 0x541B)], [(0, n) for n in (0x5412, 0x5452, 0x8901, 0x40049409)]),
    "prlimit64": (PRLIMIT, [(0, 7, 0, 1), (PID, 7, 0, 1)], [(1, 7, 0, 1), (0, 7, 8, 0), (0, 7, 1 << 32, 0)]),
}


def build(machine):
    """The instructions of a machine's filter, each (code, jump if true, jump if false, value)."""
    return list(struct.iter_unpack("<HBBI", seccomp.build(machine, PID)))


def run(program, number, args=(), architecture=None):
    """The answer of a classic BPF program to a system call, as the kernel's documentation words the machine."""
    padded = [value & (1 << 64) - 1 for value in (*args, *(0,) * (6 - len(args)))]
    data = struct.pack("<IIQ6Q", number, architecture, 0x7F0000001000, *padded)
    accumulator = at = 0
    while True:
        code, if_true, if_false, value = program[at]
        at += 1
        if code == 0x20:  # BPF_LD | BPF_W | BPF_ABS
            assert value % 4 == 0 and value + 4 <= len(data)
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif code == 0x54:  # BPF_ALU | BPF_AND | BPF_K
            accumulator &= value
        elif code == 0x15:  # BPF_JMP | BPF_JEQ | BPF_K
            at += if_true if accumulator == value else if_false
        elif code == 0x35:  # BPF_JMP | BPF_JGE | BPF_K
            at += if_true if accumulator >= value else if_false
        elif code == 0x06:  # BPF_RET | BPF_K
            return value
        else:
            raise AssertionError(f"instruction {code:#x} at {at - 1}")


@pytest.fixture(scope="module", params=MACHINES)
def machine(request):
    return request.param


@pytest.fixture(scope="module")
def answer(machine):
    """Function of (number, arguments) on a machine; the number may be a pair, one a machine."""
    program, column = build(machine), MACHINES.index(machine)

    def ask(number, args=(), architecture=ARCHITECTURES[machine]):
        return run(program, number[column] if isinstance(number, tuple) else number, args, architecture)

    return ask


def here(machine, table):
    """(name, number, what else the table holds) of the calls that a machine has."""
    column = MACHINES.index(machine)
    return [(name, row[column], row[2:]) for name, row in table.items() if row[column] is not None]


def test_every_free_call_passes_with_any_arguments(machine, answer):
    names = [name for name in seccomp.FREE if name in NUMBERS[machine]]
    assert {answer(NUMBERS[machine][name], args) for name in names for args in ((), ONES)} == {ALLOW}
    assert len(names) == len(set(names))


def test_so_many_calls_pass_as_they_are_and_so_many_with_some_arguments(machine, answer):
    good = [args for _, some, _ in SOME_ARGUMENTS.values() for args in some]
    free = {n for n in range(N_NUMBERS) if {answer(n, args) for args in ((), ONES, *good)} == {ALLOW}}
    some = {n for n in range(N_NUMBERS) if ALLOW in {answer(n, args) for args in good}} - free
    assert (len(free), len(some)) == {"x86_64": (94, 22), "aarch64": (77, 21)}[machine]
    column = MACHINES.index(machine)
    assert some == {numbers[column] for numbers, _, _ in SOME_ARGUMENTS.values()} - {None}


def test_what_leaves_the_sandbox_is_refused_with_any_arguments(machine, answer):
    good = [args for _, some, _ in SOME_ARGUMENTS.values() for args in some]
    for name, number, _ in here(machine, NEVER):
        assert {answer(number, args) for args in ((), ONES, *good)} == {EPERM}, name


def test_calls_that_no_table_has_are_refused(machine, answer):
    known = set(NUMBERS[machine].values())
    assert {answer(n, ()) for n in (*range(N_NUMBERS), 0x3FFFFFFF) if n not in known} == {EPERM}


def test_calls_that_libraries_fall_back_from_are_answered_and_not_made(machine, answer):
    for name, number, (code,) in here(machine, ANSWERED):
        assert {answer(number, args) for args in ((), ONES)} == {0x00050000 | code}, name


@pytest.mark.parametrize("name", SOME_ARGUMENTS)
def test_some_arguments_pass(name, machine, answer):
    numbers, good, bad = SOME_ARGUMENTS[name]
    if numbers[MACHINES.index(machine)] is None:
        return
    assert {answer(numbers, args) for args in good} == {ALLOW}
    refused = 0x00050000 | REFUSALS.get(name, errno.EPERM)
    assert {args: answer(numbers, args) for args in bad} == dict.fromkeys(bad, refused)


def test_calls_of_another_architecture_end_the_process(machine, answer):
    others = (0, 0x40000003, 0x40000028, *(word for name, word in ARCHITECTURES.items() if name != machine))
    assert {answer(n, (), word) for n in range(N_NUMBERS) for word in others} == {KILL}


def test_the_second_set_of_numbers_of_x86_64_ends_the_process():
    program = build("x86_64")
    numbers = [0x40000000 | n for n in range(N_NUMBERS)] + [0xFFFFFFFF]
    assert {run(program, n, (), ARCHITECTURES["x86_64"]) for n in numbers} == {KILL}


def test_the_prepared_filter_becomes_that_of_the_process():
    machine, any_pid = os.uname().machine, struct.pack("=I", seccomp._ANY_PID)
    assert seccomp.template().replace(any_pid, struct.pack("=I", PID)) == seccomp.build(machine, PID)


def test_an_unknown_machine_is_named():
    with pytest.raises(ValueError, match=r"knows the machines \['aarch64', 'x86_64'\]: got 'riscv64'"):
        seccomp.build("riscv64", 1)
