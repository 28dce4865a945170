"""The sandbox's cost on an otherwise idle machine: parts of a bare pre-forked worker's throughput, round by round."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).with_name("throughput.py")
N_ROUNDS, N_CALLS, N_WORKERS = 9, 60, 2
OF_BARE = {"L0": 0.85, "L1": 0.65}
OF_COLD = 10.0  # an interpreter started for each call


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_levels_keep_most_of_the_throughput_of_a_bare_worker(capsys):
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(path for path in sys.path if path))
    command = [sys.executable, "-B", str(SCRIPT), *map(str, (N_ROUNDS, N_CALLS, N_WORKERS))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stderr[-2000:]
    seen = json.loads(done.stdout)
    with capsys.disabled():
        print("\n" + done.stdout.strip())
    assert {level: seen["of_bare"][level] >= share for level, share in OF_BARE.items()} == dict.fromkeys(OF_BARE, True)
    assert {level: seen["of_cold"][level] >= OF_COLD for level in OF_BARE} == dict.fromkeys(OF_BARE, True)
