"""A whole run by two processes, one of them told to stop in between, equals that of one process."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from arft_jax.commands import convert
from arft_jax.io.weights import abstract_params, load_model_config, load_params

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

# float32 sums in another order, over six updates; log-probs are of order 1 to 10, params of order 1.
TOLERANCE = 1e-4
_TIMES = ("_s", "tokens_per_s")


def start(repo_root, command, process: int, n_processes: int, port: int, output):
    env = dict(os.environ, JAX_PLATFORMS="cpu", PYTHONPATH=os.pathsep.join([str(repo_root), *sys.path]))
    if n_processes > 1:
        command = [
            *command, "--config.distributed.enabled=True", f"--config.distributed.coordinator=localhost:{port}",
            f"--config.distributed.n_processes={n_processes}", f"--config.distributed.process={process}",
        ]  # fmt: skip
    with open(output, "wb") as f:
        return subprocess.Popen([sys.executable, *command], cwd=repo_root, env=env, stdout=f, stderr=subprocess.STDOUT)


def run(repo_root, command, n_processes: int, folder, stop_at: str = "") -> list[tuple[int, str]]:
    """(exit status, output) of each process; the last is sent SIGTERM once the first has printed ``stop_at``."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    outputs = [folder / f"output.{k}.txt" for k in range(n_processes)]
    processes = [start(repo_root, command, k, n_processes, port, output) for k, output in enumerate(outputs)]
    try:
        while stop_at and stop_at not in outputs[0].read_text():
            assert processes[0].poll() is None, outputs[0].read_text()[-4000:]
            time.sleep(0.05)
        if stop_at:
            processes[-1].send_signal(signal.SIGTERM)
        return [(process.wait(), output.read_text()) for process, output in zip(processes, outputs, strict=True)]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def figures(workdir) -> list[dict]:
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.endswith(_TIMES)} for row in rows]


def weights_in(folder):
    return load_params(str(folder), abstract_params(load_model_config(str(folder)), np.dtype("float32")))


def exported(workdir):
    out = f"{workdir}_out"
    convert.export_weights(str(workdir), out)
    return weights_in(out)


def test_two_processes_stopped_and_resumed_end_where_one_does(repo_root, tmp_path):
    """From a weights directory through both stages, every evaluation and the export."""
    make = [sys.executable, "launch/make_tiny_checkpoint.py", f"--out={tmp_path / 'weights'}"]
    subprocess.run(make, cwd=repo_root, check=True, capture_output=True)
    command = ["launch/train.py", "--config=configs/tiny_cpu.py:smoke", f"--config.weights={tmp_path / 'weights'}"]
    one, two = ([*command, f"--config.workdir={tmp_path / name}"] for name in ("one", "two"))

    [(status, output)] = run(repo_root, one, 1, tmp_path)
    assert status == 0, output[-4000:]
    for status, output in run(repo_root, two, 2, tmp_path, stop_at="warm start 2/4"):
        assert status == 143 and "; the same command resumes" in output, output[-4000:]
    n_before = len(figures(tmp_path / "two"))
    assert 2 <= n_before < 6
    for status, output in run(repo_root, two, 2, tmp_path):
        assert status == 0, output[-4000:]

    want, got = figures(tmp_path / "one"), figures(tmp_path / "two")
    assert [row["step"] for row in got] == [row["step"] for row in want]
    for a, b in zip(want, got, strict=True):
        assert a.keys() == b.keys()
        for name, value in a.items():
            assert b[name] == (value if isinstance(value, str) else pytest.approx(value, rel=TOLERANCE, abs=TOLERANCE))
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two")]
    assert results[0].keys() == results[1].keys()
    first = load_params(
        str(tmp_path / "weights"), abstract_params(load_model_config(str(tmp_path / "weights")), np.dtype("float32"))
    )
    ends, first = [exported(tmp_path / name) for name in ("one", "two")], weights_in(tmp_path / "weights")
    moved = 0.0
    for a, b, c in zip(*map(jax.tree.leaves, (*ends, first)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE)
        moved = max(moved, float(np.abs(np.asarray(a) - np.asarray(c)).max()))
    assert moved > 10 * TOLERANCE  # there was something to differ in
