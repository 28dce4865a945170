"""The serve command as a process: what is refused at the door, what it prints, how a signal ends it."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import openai
import pytest

from arft_jax.bench import serving
from arft_jax.commands.cli import evaluate
from arft_jax.commands.cli import serve as cli
from arft_jax.io.trajectories import load_trajectories

# ml_collections loads a config file by a way that Python 3.12 no longer has.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
CONFIG = """
from arft_jax.config import default_config

def get_config():
    config = default_config()
    config.name = "mite"
    config.model.text_config.update(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1,
        mrope_section=(4, 6, 6))
    config.model.vision_config.update(
        depth=1, hidden_size=16, intermediate_size=16, num_heads=1, fullatt_block_indexes=(0,))
    config.rollout.update(
        n_patches=64, n_windows=8, n_features=256, group_size=2, n_slots=4, max_turn_tokens=64, max_tokens=512)
    config.train.rows_per_update, config.system_prompt, config.compilation_cache = 16, "short", ""
    config.tools.sandbox.level = "auto"
    return config
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("mite") / "mite.py"
    path.write_text(CONFIG)
    return str(path)


def test_what_cannot_be_served_is_refused_in_one_sentence(config, capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        drawn = [f"--config={config}", "--checkpoint=none"]
        for flags, told in (
            ([], "--workdir must be given, or --config"),
            ([f"--config={config}", f"--config.workdir={tmp_path}/none"], "must hold a checkpoint"),
            ([*drawn, f"--port={port}"], f"must be free: 127.0.0.1:{port}"),
            ([*drawn, "--host=0.0.0.0"], "must have a key: got host 0.0.0.0"),
            ([*drawn, "--key_env=NO_SUCH_KEY"], "NO_SUCH_KEY must hold the key"),
            ([*drawn, f"--files={tmp_path}/none"], "the folder of files must exist"),
            ([*drawn, "--port=70000"], "port"),
        ):
            assert cli.main(flags) == 2
            error = capsys.readouterr().err
            assert told in error and error.count("\n") == 1, error


@contextlib.contextmanager
def serving_process(config, *flags):
    what = [f"--config={config}", "--checkpoint=none"] if config else []
    command = [sys.executable, "-m", "arft_jax", "serve", *what, "--port=0", *flags]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "MITE_KEY": "sesame"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            lines = []
            while not lines or "serving" not in lines[-1]:
                lines.append(process.stdout.readline())
                assert lines[-1], "".join(lines)
            yield process, lines
        finally:
            process.kill() if process.poll() is None else None


def test_a_server_finishes_what_is_under_way_when_it_is_asked_to_stop(config, tmp_path):
    flags = ("--key_env=MITE_KEY", f"--record={tmp_path / 'kept'}", "--name=small")
    with serving_process(config, *flags) as (process, lines):
        assert "sandbox: L" in lines[0] and "small, small-coding, small-search at" in lines[1]
        url = re.search(r"http://\S+", lines[1]).group()
        with openai.OpenAI(base_url=url, api_key="sesame", max_retries=0) as client:
            question = [{"role": "user", "content": "What is it?"}]
            first = client.chat.completions.create(model="small", messages=question, max_tokens=4, seed=1)
            assert first.usage.completion_tokens in range(1, 5)
            agent = client.chat.completions.create(model="small-coding", messages=question, max_tokens=8, seed=1)
            assert agent.choices[0].finish_reason == "length"
            late = []
            asking = threading.Thread(
                target=lambda: late.append(
                    client.chat.completions.create(model="small", messages=question, max_tokens=400, seed=1, n=4)
                )
            )
            asking.start()
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            asking.join(60)
            assert len(late[0].choices) == 4
        printed = process.stdout.read()
        assert process.wait(60) == 0 and printed.endswith("stopped\n") and "asked to stop" in printed
    rows = load_trajectories(tmp_path / "kept" / "trajectories.jsonl")
    assert len(rows) == 6 and rows[0].info["model"] == "small" and rows[1].task.kind == "coding"
    assert "sesame" not in (tmp_path / "kept" / "trajectories.jsonl").read_text()


@pytest.mark.slow
def test_many_clients_get_as_many_tokens_as_the_engine_gives(config, tmp_path):
    asked = serving.bodies(0, 64)
    flags = [f"--config={config}", "--checkpoint=none", "--config.rollout.n_slots=8"]
    load = serving.server_load(flags, asked, 8, 20.0, print)
    assert set(load["statuses"]) <= {"200", "429"} and load["statuses"]["200"] > 50 and load["stopped"] == 0
    first, last = load["rss_mb"]
    assert last < 1.05 * first
    json.dumps(load)


@pytest.fixture(scope="module")
def imitator(tmp_path_factory):
    """The work directory of a run that has learnt to write turns and calls, and nothing more."""
    from arft_jax.commands.cli import train

    folder = tmp_path_factory.mktemp("imitator") / "run"
    small = ["--config.warm_start.steps=100", "--config.warm_start.rows=32", "--config.train.steps=0"]
    small += ["--config.warm_start.n_practice=512", "--config.eval.without_tools=False", f"--config.workdir={folder}"]
    assert train.main(["--config=tiny_cpu:smoke", *small]) == 0
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_served_policy_gives_the_answers_of_the_native_one_turn_by_turn(imitator, tmp_path):
    asked = [f"--workdir={imitator}", "--benchmark=mini_coding,mini_search", "--limit=24"]
    assert evaluate.main([*asked, f"--out={tmp_path / 'native'}"]) == 0
    with serving_process(None, f"--workdir={imitator}", "--name=small") as (process, lines):
        url = re.search(r"http://\S+", lines[1]).group()
        server = [f"--config.openai.base_url={url}", "--config.openai.model=small", "--config.openai.key_env="]
        server += ["--config.openai.images=whole"]  # the server resizes as the policy does; twice may be another size
        assert evaluate.main([*asked, "--policy=openai", *server, f"--out={tmp_path / 'served'}"]) == 0
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
    n_calls = 0
    for name in ("mini_coding", "mini_search"):
        played = {}
        for policy in ("native", "served"):
            rows = load_trajectories(tmp_path / policy / name / "trajectories")
            played[policy] = {
                row.info["item"]: (row.status, row.answer, [turn.text for turn in row.turns]) for row in rows
            }
            n_calls += sum(turn.call is not None for row in rows for turn in row.turns)
        assert played["native"] == played["served"] and len(played["native"]) == 24
    assert n_calls > 48  # the turns behind observations are among what was compared
