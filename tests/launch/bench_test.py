"""The bench command's refusals."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (["--against=vllm"], "peers must be among transformers, tunix: got vllm (--against)"),
        (["--repeats=0"], "repeats=0 (--figures, --repeats)"),
        (["decode"], "every argument must be a --flag=value: got 'decode'"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_status_2(flags, sentence):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "ARFT_TUNIX_PYTHON": ""}
    command = [sys.executable, str(ROOT / "launch" / "bench.py"), "--config=configs/bench_cpu.py", *flags]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT)
    assert done.returncode == 2 and done.stdout == ""
    assert sentence in done.stderr and len(done.stderr.splitlines()) == 1
