"""What every test runs under: CPU, strict promotion, a compilation cache, no network beyond loopback."""

import importlib.util
import ipaddress
import os
import pathlib
import socket

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # read when jax is imported

import jax
import numpy as np
import pytest

from arft_jax import config as config_lib
from arft_jax.io import metrics, trajectories
from arft_jax.protocol import Answer
from arft_jax.rewards import aggregate
from arft_jax.train.run_dir import RunDir
from arft_jax.trajectory import Image, Status, Task, Trajectory, Turn

ROOT = pathlib.Path(__file__).resolve().parents[1]
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "arft_jax" / "tests"

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _is_loopback(host: str | bytes | None) -> bool:
    if host is None:
        return True
    host = host.decode() if isinstance(host, bytes) else host
    if host in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host.split("%")[0]).is_loopback
    except ValueError:
        return False


@pytest.fixture(autouse=True, scope="session")
def no_network():
    """Fails a test that connects to, or looks up, anything but this machine."""

    def refuse(host):
        raise RuntimeError(f"a test must not use the network: tried to reach {host!r}")

    def guarded(function):
        def call(sock, address, *rest):
            if sock.family in (socket.AF_INET, socket.AF_INET6) and not _is_loopback(address[0]):
                refuse(address[0])
            return function(sock, address, *rest)

        return call

    look_up = socket.getaddrinfo

    def getaddrinfo(host, *args, **kwargs):
        return look_up(host, *args, **kwargs) if _is_loopback(host) else refuse(host)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded(socket.socket.connect))
        patch.setattr(socket.socket, "connect_ex", guarded(socket.socket.connect_ex))
        patch.setattr(socket, "getaddrinfo", getaddrinfo)
        yield


@pytest.fixture(scope="session")
def repo_root() -> pathlib.Path:
    """The repository's root folder."""
    return ROOT


@pytest.fixture
def shipped(repo_root):
    """A shipped configuration by its name and variant."""

    def load(name: str, variant: str = ""):
        spec = importlib.util.spec_from_file_location(name, repo_root / "configs" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.get_config(variant)

    return load


@pytest.fixture(scope="session")
def mat_dir() -> pathlib.Path:
    """The folder with the MAT questions and the published predictions; skips where it is absent."""
    folder = pathlib.Path(os.environ.get("ARFT_MAT_DIR") or ROOT.parent / "shared" / "data" / "mat")
    if not (folder / "MAT-Coding.json").is_file():
        pytest.skip(f"no MAT files in {folder}: set ARFT_MAT_DIR")
    return folder


def _item(number, answer):
    image = Image(np.full((8, 8, 3), number, np.uint8), "image_1")
    task = Task(
        f"t{number}", "coding", f"question {number}", (image,), ("7",), split="hard" if number % 2 else "simple"
    )
    turn = Turn(f"<think>t</think><answer>{answer}</answer>", Answer(answer), 2, 4)
    em = float(answer == "7")
    return Trajectory(
        task, 0, np.zeros(4, np.int32), np.zeros(4, np.float32), np.ones(4, bool), np.zeros(4, bool),
        np.zeros((3, 4), np.int32), 2, (), (turn,), Status.ANSWERED, {"total": em, "em": em},
    )  # fmt: skip


@pytest.fixture
def finished_run(tmp_path):
    """A run of one task that went from 0 of 6 right to 6 of 6."""
    config = config_lib.default_config()
    config.update(name="tiny & small", workdir=str(tmp_path / "run"))
    config.data.tasks = ("mini_coding",)
    config.report.n_trajectories = 3
    config.eval.bootstrap = 50
    directory = RunDir(config)
    for stage, answer in (("before", "0"), ("after", "7"), ("no_tools", "0")):
        done = [_item(number, answer) for number in range(6)]
        em = [t.rewards["em"] for t in done]
        splits = [t.task.split for t in done]
        items = {"f1": em, "em": em, "splits": splits}
        figures = aggregate.by_split(em, em, splits, n_resamples=50)
        directory.add_result(stage, {"mini_coding": {"table": figures, "items": items}})
        trajectories.save_trajectories(directory.path / "trajectories" / f"{stage}_mini_coding", done)
    with metrics.MetricsWriter(directory.path / "metrics.jsonl") as writer:
        for step in range(1, 4):
            writer.write(step, {"phase": "warm_start", "step": step, "nll": 1.0})
        for step in range(1, 5):
            writer.write(3 + step, {"phase": "grpo", "step": step, "reward": step / 4})
    return config, directory
