"""Every system of the paper's table evaluated by the command, each behind a server of its kind; prints the rows.

    pip install -e '.[test,baselines]'
    pytest -s -m torch tests/baselines/table_rows_test.py

The open models are small and random, in the layouts of the published ones, and served by ``transformers serve``:
what is shown is that prompts, pictures and replies go through, not what the models know. GPT-4o, o3 and XComposer2.5
are played by a server that answers in their documented forms. With the MAT items (ARFT_MAT_DIR) these are asked too.
"""

import contextlib
import importlib.util
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

pytest.importorskip("openai", reason="needs the openai package, of the [openai] extra")

from arft_jax.commands.cli import evaluate as cli
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.io.tiny_checkpoint import make_tiny_checkpoint
from arft_jax.report import table
from arft_jax.testing.chat_server import ChatServer, question_of
from arft_jax.testing.tiny_vlms import SYSTEMS, make_tiny_vlm

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")]

HEADER = ("system", "tools", "served by", "items", "answered", "F1", "EM")
START_S = 120.0
N_MINI = 4
# Of a Qwen model transformers' server takes thoughts and calls out of the text; this leaves it whole.
WHOLE = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {"content": {"close": ["<|im_end|>"], "content": "text"}},
}


@pytest.fixture(scope="module", autouse=True)
def needs_servers():
    missing = [name for name in ("torch", "torchvision", "fastapi", "uvicorn") if not importlib.util.find_spec(name)]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}, of the [baselines] extra")


@pytest.fixture(scope="module")
def rows():
    """What was evaluated, printed at the end."""
    rows = []
    yield rows
    print(f"\n{table.aligned(HEADER, rows, n_names=3)}")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """(benchmarks, their data directory): the real items where they are, and a self-made set."""
    folder = tmp_path_factory.mktemp("data")
    mat = pathlib.Path(os.environ.get("ARFT_MAT_DIR") or "none")
    if not (mat / "MAT-Coding.json").is_file():
        return "mini_coding", folder
    for name in ("MAT-Coding", "MAT-Search"):
        images = folder / "MAT-Benchmark" / f"{name}-image"
        images.mkdir(parents=True)
        shutil.copy(mat / f"{name}.json", images.parent)
        for item in json.loads((mat / f"{name}.json").read_text()):
            for key in ("image_path", "ori_image_path", "processed_image_path"):
                if key in item and (mat / item[key]).is_file():
                    shutil.copy(mat / item[key], images / item[key])
    (folder / "mat_search").mkdir()
    (folder / "mat_search" / "corpus.jsonl").write_text('{"title": "Lego", "text": "The name says: play well."}\n')
    return "mat_coding,mat_search,mini_coding", folder


@contextlib.contextmanager
def transformers_serve(folder, log):
    """The URL of a server of transformers with one model; the model's name there is its folder."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(pathlib.Path(sys.executable).with_name("transformers")), "serve", str(folder)]
    command += ["--device=cpu", "--dtype=float32", "--host=127.0.0.1", f"--port={port}"]
    with open(log, "w") as out:
        server = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    try:
        deadline = time.monotonic() + START_S
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).read()
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < deadline, pathlib.Path(log).read_text()[-2000:]
                time.sleep(0.3)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(30)


def evaluate(data, out, tools, *flags):
    """Runs the command; returns its results."""
    benchmarks, folder = data
    prompt = "agent" if tools == "on" else "plain"
    words = [
        "--config=tiny_cpu:smoke", f"--benchmark={benchmarks}", f"--limit={N_MINI}", f"--out={out}",
        f"--tools={tools}", f"--config.data.dir={folder}", "--config.eval.bootstrap=50", "--config.warm_start.steps=0",
        f"--config.openai.prompt={prompt}", "--config.rollout.max_turn_tokens=24", "--config.rollout.max_tokens=1024",
        "--config.openai.timeout_s=60", "--config.openai.n_tries=3", "--config.openai.backoff_s=0.01",
        "--config.train.micro_tokens=1024", "--config.train.row_widths=()", "--config.compilation_cache=", *flags,
    ]  # fmt: skip
    assert cli.main(words) == 0
    return json.loads((out / "results.json").read_text())


def row_of(system, tools, served_by, results):
    """A row of the printed table; checks that every item was answered."""
    parts = results["benchmarks"].values()
    asked, answered = (sum(part[key] for part in parts) for key in ("n_asked", "n_answered"))
    assert answered == asked >= N_MINI
    f1, em = ([score for part in parts for score in part["items"][key]] for key in ("f1", "em"))
    means = [f"{100 * sum(scores) / len(scores):.1f}" for scores in (f1, em)]
    return (system, tools, served_by, str(asked), str(answered), *means)


def requests_of(out):
    return [json.loads(line) for line in (out / "requests.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("system", SYSTEMS)
def test_an_open_model_behind_transformers_serve(system, data, rows, tmp_path):
    model = tmp_path / "model"
    make_tiny_vlm(system, model)
    with transformers_serve(model, tmp_path / "server.log") as url:
        for tools in ("off", "on"):
            out = tmp_path / tools
            where = [f"--config.openai.base_url={url}", f"--config.openai.model={model}"]
            results = evaluate(data, out, tools, "--policy=openai", *where)
            rows.append(row_of(system, tools, "transformers serve", results))
            sent = requests_of(out)
            assert all(line["outcome"] == "reply" and line["usage"]["prompt_tokens"] > 4 for line in sent)
            assert len(sent) >= int(rows[-1][3])


def texts_of(out, name):
    """What was said in each item, without the white space at the ends, which transformers' server takes off."""
    records = [json.loads(line) for line in (out / name / "trajectories.jsonl").read_text().splitlines()]
    return {r["task"]["id"]: [turn["text"].strip() for turn in r["turns"]] for r in records}


def test_qwen_behind_transformers_serve_says_what_it_says_natively(data, rows, tmp_path):
    model, words = tmp_path / "model", Tokenizer.tiny()
    make_tiny_checkpoint(model, dtype="float32")
    n_ids = json.loads((model / "config.json").read_text())["vocab_size"]
    never = {str(i): -100.0 for i, written in enumerate(words.token_bytes(n_ids)) if not written and i != words.eos_id}
    settings = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps(settings | {"response_template": WHOLE}))
    with transformers_serve(model, tmp_path / "server.log") as url:
        for tools in ("off", "on"):
            served, native = tmp_path / f"served_{tools}", tmp_path / f"native_{tools}"
            where = [
                f"--config.openai.base_url={url}",
                f"--config.openai.model={model}",
                "--config.openai.prompt=agent",
            ]
            extra = f"--config.openai.extra={ {'logit_bias': never} }"
            weights = f"--config.weights={model}"
            frame = "--config.tools.crop_frame=resized"
            results = evaluate(data, served, tools, "--policy=openai", *where, extra, weights, frame)
            rows.append(row_of("Qwen2.5-VL", tools, "transformers serve", results))
            results = evaluate(data, native, tools, "--checkpoint=none", weights, frame)
            rows.append(row_of("Qwen2.5-VL", tools, "native", results))
            for name in results["benchmarks"]:
                said = texts_of(native, name)
                assert said and texts_of(served, name) == said
                assert all(any(texts) for texts in said.values())


@pytest.mark.parametrize("model, system", [("gpt-4o", "GPT-4o"), ("o3", "OpenAI-o3"), ("xcomposer", "XComposer2.5")])
def test_a_system_without_weights_here_answers_in_its_own_form(model, system, data, rows, tmp_path):
    def answer(body):
        question = question_of(body)
        if model == "gpt-4o" and "brand" in question:
            return {"refusal": "I can't help with that."}
        is_agent = any(message["role"] == "system" for message in body["messages"])
        return "<think>t</think><answer>Play well.</answer>" if is_agent else "Play well."

    own = {
        "o3": ["--config.openai.temperature=-1", "--config.openai.max_tokens_name=max_completion_tokens"],
    }.get(model, [])
    with ChatServer(answer, faults=lambda number: "429" if number % 4 == 1 else None) as server:
        for tools in ("off", "on"):
            out = tmp_path / tools
            where = [f"--config.openai.base_url={server.url}", f"--config.openai.model={model}"]
            results = evaluate(data, out, tools, "--policy=openai", *where, *own)
            rows.append(row_of(system, tools, "documented form", results))
            if "mat_search" in results["benchmarks"]:
                [em] = results["benchmarks"]["mat_search"]["items"]["em"]
                assert em == (0.0 if model == "gpt-4o" else 1.0)  # refused, or right
            assert any(line["status"] == 429 for line in requests_of(out))
