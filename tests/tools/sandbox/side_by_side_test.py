"""Two calls side by side exchange no bit through files, locks, shared memory, names, numbers, futexes or quotas."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).with_name("side_by_side.py")
CLEAR, FAINT, SLOT_S, SLOW_SLOT_S = 14, 12, 0.03, 0.06  # of 16 bits right; seconds (side_by_side.py)
# Channel: the defence without which it is open at level L0. None: it is open there, as the page on the sandbox says
# (metadata of files, and numbers that count for the whole host), and closed at L1.
OPENED_BY = {
    "file by its name": "landlock",
    "size of a file": None,
    "lock on a library": "call:flock",
    "lock on the null device": "call:fcntl",
    "shared memory by a key": "call:shmget",
    "shared futex": "call:futex",
    "numbers of threads": None,
    "numbers of files": None,
    "free room": "call:statfs",
    "processes of the host": "call:sysinfo",
    "page cache, without waiting": "call:preadv2,fadvise64",
    "page cache, by blocks read": "call:getrusage,fadvise64",
    "queued signals": "limit:RLIMIT_SIGPENDING",
    "processor time": "call:clock_gettime",
}
QUICK = ("lock on a library", "lock on the null device", "shared futex", "page cache, by blocks read", "queued signals")


def exchange(level, wants, channels, weak="", slot_s=SLOT_S):
    """(level, {channel: bits right in each round}); see side_by_side.py."""
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(path for path in sys.path if path))
    config = {"level": level, "wants": wants, "channels": list(channels), "weak": weak, "slot_s": slot_s}
    command = [sys.executable, "-B", str(SCRIPT), json.dumps(config)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    seen = json.loads(done.stdout)
    assert set(seen["rounds"]) == set(channels)
    return seen["level"], seen["rounds"]


def closed(rounds):
    """Whether a round told nothing: a receiver that sees nothing gets half of the bits right, or some by chance."""
    return rounds[-1] < FAINT


def test_no_bit_comes_through_at_the_level_that_holds_here():
    _, rounds = exchange("auto", False, QUICK)
    assert {name: seen for name, seen in rounds.items() if not closed(seen)} == {}


def test_the_same_programs_come_through_where_the_lock_is_open():
    """The control: what the test above looks for can be seen."""
    _, rounds = exchange("L0", True, ["lock on a library"], "call:flock")
    assert max(rounds["lock on a library"]) >= CLEAR


@pytest.mark.slow
@pytest.mark.parametrize("level", ["L1", "L0"])
def test_no_bit_comes_through_any_channel(level):
    names = [name for name, weak in OPENED_BY.items() if level == "L1" or weak is not None]
    _, rounds = exchange(level, False, names, slot_s=SLOW_SLOT_S)
    assert {name: seen for name, seen in rounds.items() if not closed(seen)} == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPENED_BY)
def test_every_channel_is_open_without_its_defence(name):
    _, rounds = exchange("L0", True, [name], OPENED_BY[name] or "", SLOW_SLOT_S)
    assert max(rounds[name]) >= CLEAR, rounds
