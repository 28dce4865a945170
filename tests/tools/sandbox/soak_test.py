"""The soak, short: six hundred mixed calls in a process of their own."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).with_name("soak.py")


def check(n_calls, timeout_s, level="auto"):
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(path for path in sys.path if path))
    command = [sys.executable, "-B", str(SCRIPT), str(n_calls), level]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout_s)
    assert done.returncode == 0, done.stderr[-2000:]
    seen = json.loads(done.stdout)
    assert (seen["calls"], seen["wrong"], seen["left"]) == (n_calls, [], [])
    assert 0.15 < seen["hostile"] / n_calls < 0.25
    memory_mb, descriptors = ((max(seen[key][:3]), max(seen[key][-3:])) for key in ("memory_mb", "descriptors"))
    assert memory_mb[0] > 100  # the workers were seen at all
    assert memory_mb[1] <= memory_mb[0] + 20  # what a worker shares with its decoder, in each of two
    assert descriptors[0] > 5 or os.getuid() != 0  # the workers', where they may be counted
    assert descriptors[1] <= descriptors[0] + 2  # those of a decoder
    return seen


def test_six_hundred_calls_leave_nothing_and_come_out_right():
    check(600, 240)


def test_two_hundred_calls_at_the_level_without_namespaces():
    check(200, 240, "L0")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_thousand_calls(capsys):
    seen = check(20_000, 1700)
    with capsys.disabled():
        print("\n" + json.dumps(seen))
