"""The compile-check command: exit status 0 where all fits, 1 where something does not, 2 for bad input."""

import json
import subprocess
import sys

import pytest

ROW = {
    "program": "update", "seconds": 2.0, "argument_gib": 1.25, "temporary_gib": 3.5, "peak_gib": 4.75, "flops": 6e9,
    "sent_bytes": {"all-gather": 2.0**30}, "exchanges": {"all-gather": 2.0}, "unseen": [], "beside_gib": 0.5,
    "fits": True,
}  # fmt: skip
FITS = {"hardware": "tpu v5e:2x2", "devices": 4, "memory_gib": 15.75, "programs": [ROW], "problems": []}
TOO_LARGE = {
    **FITS,
    "programs": [
        {**ROW, "argument_gib": None, "temporary_gib": None, "flops": None, "sent_bytes": None, "fits": False}
    ],
    "problems": ["update needs at least 5.2 GiB of 4.0: change config.train.rows_per_update"],
}
# The command as it is, with a check that finds RESULT.
SCRIPT = """
import json, runpy
from arft_jax.compile_check import check as compile_check

def check(config, hardware, on_program):
    result = json.loads(RESULT)
    for row in result["programs"] if on_program else ():
        on_program(row)
    return result

compile_check.check = check
runpy.run_path("launch/compile_check.py", run_name="__main__")
"""


def run(repo_root, *flags, result=FITS):
    code = f"RESULT = {json.dumps(result)!r}\n{SCRIPT}"
    command = [sys.executable, "-c", code, "--config=configs/tiny_cpu.py", *flags]
    return subprocess.run(command, cwd=repo_root, capture_output=True, text=True)


@pytest.mark.parametrize(("result", "status"), [(FITS, 0), (TOO_LARGE, 1)])
def test_the_exit_status_tells_whether_all_fits_and_json_is_one_object(repo_root, result, status):
    done = run(repo_root, "--format=json", result=result)
    assert (done.returncode, json.loads(done.stdout)) == (status, result), done.stderr


def test_the_table_has_the_figures_of_the_json(repo_root):
    done = run(repo_root)
    head, row, last, verdict = done.stdout.splitlines()
    assert done.returncode == 0 and head.split()[:3] == ["program", "compile", "arguments"]
    assert row.split() == ["update", "2.0", "s", "1.25", "3.50", "0.50", "5.25", "6.0", "1", "all-gather", "1"]
    assert last.startswith("tpu v5e:2x2: 4 devices, memory of one 15.75 GiB") and verdict == "every program fits"


def test_the_table_of_what_does_not_fit_ends_with_the_keys_that_help(repo_root):
    done = run(repo_root, result=TOO_LARGE)
    lines = done.stdout.splitlines()
    assert done.returncode == 1 and lines[-1] == TOO_LARGE["problems"][0]
    assert lines[1].split() == ["update", "2.0", "s", "-", "-", "0.50", "5.25", "-", "-", "DOES", "NOT", "FIT"]


def test_bad_hardware_is_one_sentence_and_status_2(repo_root):
    command = [sys.executable, "launch/compile_check.py", "--config=configs/tiny_cpu.py", "--topology=v5e:2x2"]
    done = subprocess.run(command, cwd=repo_root, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: hardware must be like 'tpu v5e:8x8'") and done.stderr.count("\n") == 1
