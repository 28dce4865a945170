"""Two calls at the same time, one of which tries to tell the other some bits through what they share but the clock.

    python side_by_side.py '{"level": "L0", "weak": "call:flock", "channels": ["lock on a library"], "wants": true}'

The clock is common and no secret: both know when each bit's time slot begins. In it the sender does something or not,
and the receiver looks once and prints a number. Bits are drawn anew for each round, as many ones as zeros. Prints one
JSON object: for each channel how many bits of a threshold on the numbers are right, at best one way or the other, in
each round. Rounds end with the first that is as wanted (``wants``: the bits come through), or the fourth. ``weak``
names a defence to leave out (weak_worker.py): with it the same programs must get through, or they show nothing.
``slot_s`` is the length of a slot.
"""

import concurrent.futures
import ctypes
import json
import os
import random
import resource
import secrets
import sys
import time

import numpy as np
import weaken

from arft_jax.tools.sandbox import PythonSandbox
from arft_jax.trajectory import Image, ToolStatus

N_BITS, N_ROUNDS = 16, 4
CLEAR = 14  # of 16 bits right: the bits came through
FAINT = 12  # something came through; by chance once in 13 rounds, four times in a row once in 28,000
SLOT_S, LEAD_S, LOOK_AT = 0.02, 0.15, 0.7  # of a slot; until the first one; part of a slot at which is looked
SIGNALS = 2000  # queued ones that a user may have: few, so that a call can use them up within a slot
IMAGE = Image(np.zeros((8, 8, 3), np.uint8))

HEAD = """
import ctypes, fcntl, mmap, os, resource, signal, struct, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
FUTEX, SHMGET = (202, 29) if os.uname().machine == 'x86_64' else (98, 194)
LIBRARY, KEY, OTHERS, SIGNALS, SLOT_S = os.__file__, {key}, {folders!r}, {signals}, {slot_s}
COLD = os.path.join(os.path.dirname(os.__file__), 'pydoc_data', 'topics.py')
def until(slot): time.sleep(max(0.0, {start} + SLOT_S * slot - time.time()))
def must(result):
    if result < 0: raise OSError(ctypes.get_errno(), 'refused')
    return result
def start_threads(n, *what):
    for _ in range(n): threading.Thread(target=what[0], args=what[1:], daemon=True).start()
def map_library(): return libc.mmap(None, ctypes.c_size_t(4096), 1, 1, os.open(LIBRARY, os.O_RDONLY), ctypes.c_long(0))
slot = 0
"""
SEND = """
def off(): pass
def prepare(): pass
{send}
try: prepare()
except OSError: pass
assert time.time() < {start}, 'late'
for slot, bit in enumerate('{bits}'):
    until(slot)
    try: (on if bit == '1' else off)()
    except OSError: pass
until({n_bits})
print('sent')
"""
RECEIVE = """
def prepare(): pass
def read(seen): return seen
{look}
try: prepare()
except OSError: pass
assert time.time() < {start}, 'late'
seen = []
for slot in range({n_bits}):
    until(slot + {look_at})
    try: seen.append(int(look() or 0))
    except OSError: seen.append(0)
print(*read(seen))
"""
# name: (what the sender does, how the receiver looks)
CHANNELS = {
    "file by its name": (
        "def on(): open('name', 'w').close()\ndef off(): os.unlink('name')",
        "def look():\n for folder in OTHERS:\n  try: return open(folder + '/name') and 1\n  except OSError: pass",
    ),
    "size of a file": (
        "def prepare(): open('name', 'w').close()\ndef on(): os.truncate(os.open('name', 1), 9)\n"
        "def off(): os.truncate(os.open('name', 1), 0)",
        "def look():\n for folder in OTHERS:\n  try: return os.stat(folder + '/name').st_size\n  except OSError: pass",
    ),
    "lock on a library": (
        "f = open(LIBRARY)\ndef on(): fcntl.flock(f, 2 | 4)\ndef off(): fcntl.flock(f, 8)",
        "f = open(LIBRARY)\ndef look():\n try: fcntl.flock(f, 1 | 4)\n except BlockingIOError: return 1\n"
        " fcntl.flock(f, 8)\n return 0",
    ),
    "lock on the null device": (
        "f = open('/dev/null', 'r+b', 0)\n"
        "def on(): fcntl.lockf(f, 2 | 4, 1, KEY)\ndef off(): fcntl.lockf(f, 8, 1, KEY)",
        "f = open('/dev/null', 'r+b', 0)\ndef look():\n try: fcntl.lockf(f, 2 | 4, 1, KEY)\n"
        " except BlockingIOError: return 1\n fcntl.lockf(f, 8, 1, KEY)\n return 0",
    ),
    "shared memory by a key": (
        "def on(): must(libc.syscall(SHMGET, KEY + slot, 4096, 0o1600))",
        "def look(): return must(libc.syscall(SHMGET, KEY + slot, 0, 0)) >= 0",
    ),
    "shared futex": (
        "def wait():\n soon = ctypes.create_string_buffer(struct.pack('qq', 0, int(SLOT_S * 0.95e9)))\n"
        " libc.syscall(FUTEX, ctypes.c_void_p(page), 0, word, soon, None, 0)\n"
        "def prepare():\n global page, word\n page = map_library()\n word = ctypes.c_int.from_address(page).value\n"
        "def on(): start_threads(1, wait)",
        "def prepare():\n global page\n page = map_library()\n"
        "def look(): return must(libc.syscall(FUTEX, ctypes.c_void_p(page), 1, 100, None, None, 0))",
    ),
    "numbers of threads": (
        "def on():\n for _ in range(30):\n  t = threading.Thread(target=int); t.start(); t.join()",
        "last = []\ndef prepare(): start_threads(1, lambda: last.append(threading.get_native_id()))\n"
        "def look():\n prepare()\n time.sleep(0.001)\n return last[-1] - last[-2]",
    ),
    "numbers of files": (
        "def on():\n for i in range(50): open('f', 'w').close(); os.unlink('f')",
        "last = [0]\ndef look():\n open('f', 'w').close(); last.append(os.stat('f').st_ino); os.unlink('f')\n"
        " return last[-1] - last[-2]\nlook()",
    ),
    "free room": (
        "def on(): open('room', 'wb').write(bytes(4 << 20))\ndef off(): os.unlink('room')",
        "def look(): return os.statvfs('.').f_bfree",
    ),
    "processes of the host": (
        "threading.stack_size(32768)\ndef on(): start_threads(25, time.sleep, SLOT_S * 0.8)",
        "def look():\n room = ctypes.create_string_buffer(256)\n must(libc.sysinfo(room))\n"
        " return struct.unpack_from('H', room, 80)[0]",
    ),
    "page cache, without waiting": (
        "f = os.open(COLD, 0)\ndef on(): os.pread(f, 65536, 0)\n"
        "def off(): os.posix_fadvise(f, 0, 0, os.POSIX_FADV_DONTNEED)",
        "f = os.open(COLD, 0)\ndef look():\n try: return os.preadv(f, [bytearray(4096)], 0, os.RWF_NOWAIT) > 0\n"
        " except BlockingIOError: return 0",
    ),
    "page cache, by blocks read": (
        "f = os.open(COLD, 0)\ndef on(): os.posix_fadvise(f, 0, 0, os.POSIX_FADV_DONTNEED)",
        "f = os.open(COLD, 0)\ndef count(): return resource.getrusage(0).ru_inblock\n"
        "def look():\n before = count()\n os.pread(f, 65536, 0)\n return count() - before\n"
        "def prepare(): os.pread(f, 65536, 0)",
    ),
    "queued signals": (
        "signal.pthread_sigmask(signal.SIG_BLOCK, [40])\ndef on():\n"
        " for _ in range(SIGNALS + 50): os.kill(os.getpid(), 40)\n"
        "def off():\n while signal.sigtimedwait([40], 0): pass",
        "signal.pthread_sigmask(signal.SIG_BLOCK, [41])\ndef look():\n for _ in range(5): os.kill(os.getpid(), 41)\n"
        " n = 0\n while signal.sigtimedwait([41], 0): n += 1\n return n",
    ),
    "processor time": (
        "def on():\n end = time.time() + SLOT_S / 2\n while time.time() < end: pass",
        "pids, looks = [p for p in range(os.getpid() - 99, os.getpid() + 99) if p > 0 and p != os.getpid()], []\n"
        "pids += [p for p in range(1, min(pids))][:99]\n"
        "def used(pid):\n try: return time.clock_gettime((~pid << 3) | 2)\n except OSError: return 0.0\n"
        "def look(): looks.append([used(p) for p in pids])\n"
        "def prepare(): looks.append([used(p) for p in pids])\n"
        "def grown(at): return [int((b[at] - a[at]) * 1e6) for a, b in zip(looks, looks[1:])]\n"
        "def some(steps, is_so): return min(sum(map(is_so, steps)), 8)\n"
        "def fit(steps): return some(steps, lambda n: n > SLOT_S * 1e5) + some(steps, lambda n: n < SLOT_S * 2e4)\n"
        "def read(seen): return max(map(grown, range(len(pids))), key=fit)",  # who works as the sender does
    ),
}


def _forget_shared_memory(key: int) -> None:
    """Removes the segments of System V shared memory that a round made, where it could."""
    libc = ctypes.CDLL(None)
    for slot in range(N_BITS):
        found = libc.shmget(key + slot, 0, 0)
        if found >= 0:
            libc.shmctl(found, 0, None)


def draw() -> str:
    """Bits of a round, half of them ones."""
    bits = list("01" * (N_BITS // 2))
    random.SystemRandom().shuffle(bits)
    return "".join(bits)


def n_right(bits: str, seen: list[int]) -> int:
    """Bits that the best reading of the numbers gets right: above or below the middle of their range."""
    middle = (min(seen) + max(seen)) / 2
    same = sum((number > middle) == (bit == "1") for bit, number in zip(bits, seen, strict=True))
    return max(same, len(bits) - same)


def one_round(
    box: PythonSandbox, threads: concurrent.futures.Executor, name: str, slot_s: float
) -> tuple[int, list[int]]:
    """(bits right, what the receiver saw) of one round; the round is made again where a call began late."""
    send, look = CHANNELS[name]
    folders = [
        os.path.join(worker.root, "scratch", "call") if worker.root else "/scratch/call" for worker in box.workers
    ]
    for _ in range(5):
        bits, key = draw(), secrets.randbelow(1 << 30) + 1
        words = {
            "key": key, "folders": folders, "signals": SIGNALS, "start": time.time() + LEAD_S, "slot_s": slot_s,
            "bits": bits, "n_bits": N_BITS, "look_at": LOOK_AT,
        }  # fmt: skip
        head = HEAD.format(**words)
        codes = [head + SEND.format(send=send, **words), head + RECEIVE.format(look=look, **words)]
        sender, receiver = threads.map(lambda code: box.run(code, IMAGE), codes)
        _forget_shared_memory(key)
        if "late" in sender.text + receiver.text:
            continue
        assert (sender.status, sender.text) == (ToolStatus.OK, "sent"), sender.text
        assert receiver.status == ToolStatus.OK, receiver.text
        seen = [int(word) for word in receiver.text.split()]
        return n_right(bits, seen), seen
    raise TimeoutError(f"the calls of the channel {name!r} began late five times")


def main() -> None:
    """Tries the channels of the configuration."""
    config = json.loads(sys.argv[1])
    weaken.choose(config.get("weak", ""), 0)
    resource.setrlimit(resource.RLIMIT_SIGPENDING, (SIGNALS, resource.getrlimit(resource.RLIMIT_SIGPENDING)[1]))
    rounds, seen = {}, {}
    with (
        PythonSandbox(2, 5.0, level=config["level"]) as box,
        concurrent.futures.ThreadPoolExecutor(2) as threads,
    ):
        level = box.level
        for name in config.get("channels") or CHANNELS:
            rounds[name] = []
            while len(rounds[name]) < N_ROUNDS:
                right, seen[name] = one_round(box, threads, name, config.get("slot_s", SLOT_S))
                rounds[name].append(right)
                if right >= CLEAR if config["wants"] else right < FAINT:
                    break
    print(json.dumps({"level": level, "rounds": rounds, "seen": seen}))


if __name__ == "__main__":
    main()
