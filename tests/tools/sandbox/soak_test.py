"""The soak, short: two thousand mixed calls in a process of their own."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).with_name("soak.py")


def check(n_calls, timeout_s):
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(path for path in sys.path if path))
    command = [sys.executable, "-B", str(SCRIPT), str(n_calls)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout_s)
    assert done.returncode == 0, done.stderr[-2000:]
    seen = json.loads(done.stdout)
    assert (seen["calls"], seen["wrong"], seen["left"]) == (n_calls, [], [])
    assert 0.15 < seen["hostile"] / n_calls < 0.25
    assert seen["early_mb"] > 100  # the workers were seen at all
    assert seen["late_mb"] <= seen["early_mb"] + 40  # one decoder more or less in a worker
    return seen


def test_two_thousand_calls_leave_nothing_and_come_out_right():
    check(2000, 240)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_thousand_calls(capsys):
    seen = check(20_000, 1700)
    with capsys.disabled():
        print("\n" + json.dumps(seen))
