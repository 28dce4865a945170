"""The benchmark of one update: its refusals, and a sitting at a tiny size."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = "--config=configs/bench_cpu.py"


def run(*flags, timeout_s=280):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(ROOT / "launch" / "bench_update.py"), *flags]
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT, timeout=timeout_s)


@pytest.mark.parametrize(
    "flags, sentence",
    [
        ([CONFIG, "--format=xml"], "format must be text or json: got 'xml' (--format)"),
        ([CONFIG, "--prompt=5"], "prompt must be two whole numbers, the smaller first: got 5 (--prompt)"),
        (
            [CONFIG, "--completion=9,3"],
            "completion must be two whole numbers, the smaller first: got 9,3 (--completion)",
        ),
        (
            [CONFIG],
            "the longest trajectory must fit max_tokens: got 1500 + 1500 tokens, max_tokens=672 (config.rollout",
        ),
    ],
)
def test_bad_input_is_one_sentence_and_exit_status_2(flags, sentence):
    done = run(*flags)
    assert done.returncode == 2 and done.stdout == ""
    assert sentence in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_sitting_times_every_way_on_the_same_trajectories():
    small = [f"--config.model.text_config.{key}" for key in ("num_hidden_layers=1", "intermediate_size=64")]
    small += [
        "--config.rollout.max_tokens=256",
        "--config.train.micro_tokens=1024",
        "--config.model.vision_config.depth=2",
    ]
    small += ["--config.model.vision_config.fullatt_block_indexes=(1,)", "--config.rollout.max_turn_tokens=16"]
    lengths = ["--groups=2", "--group_size=3", "--prompt=70,100", "--completion=10,60", "--rounds=2"]
    done = run(CONFIG, *small, *lengths, "--format=json")
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    ways = found["ways"]
    assert list(ways) == ["padded", "packed", "shared"] and all(len(way["seconds"]) == 2 for way in ways.values())
    assert ways["padded"]["computed"] == 6 * 256 > ways["packed"]["computed"] > ways["shared"]["computed"]
    assert ways["padded"]["packing_frac"] * 6 * 256 == pytest.approx(found["n_tokens"])
    assert ways["shared"]["shared_frac"] > 0.3 and ways["packed"]["shared_frac"] == 0
    assert len(done.stderr.splitlines()) == 6
