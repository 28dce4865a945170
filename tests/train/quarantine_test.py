"""A training image that cannot be read: its groups are left out, its file is named once, and the run goes on."""

import json

import numpy as np
import PIL.Image
import pytest

from arft_jax.build.plan import plan
from arft_jax.commands.tiny_data import make_tiny_data
from arft_jax.config import default_config
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.io.metrics import read_metrics
from arft_jax.testing import tiny_rollout as tiny
from arft_jax.train import rollouts, trainer
from arft_jax.trajectory import Observation, Status

G = 2


def cut_jpeg(path):
    """A JPEG with a good header, its second half missing."""
    pixels = np.random.default_rng(0).integers(0, 256, (84, 84, 3), np.uint8)
    PIL.Image.fromarray(pixels).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def own_data(folder, n_train):
    """Self-made data of which the first training item shows a truncated JPEG."""
    make_tiny_data(folder, n_train=n_train, n_test=2)
    rows = json.loads((folder / "mat_coding" / "train.json").read_text())
    cut_jpeg(folder / "mat_coding" / "images" / "cut.jpg")
    rows[0] |= dict.fromkeys(("ori_image_path", "processed_image_path"), "images/cut.jpg")
    (folder / "mat_coding" / "train.json").write_text(json.dumps(rows))
    return rows[0]["id"]


@pytest.fixture
def config(tmp_path):
    config = default_config()
    config.update(name="tiny", workdir=str(tmp_path / "run"), compilation_cache="", system_prompt="short")
    config.data.update(tasks=("mat_coding",), dir=str(tmp_path / "data"), n_train=2)
    config.warm_start.steps = 0
    config.rollout.update(group_size=G, n_slots=4, max_turns=2, max_turn_tokens=12, max_tokens=192, extend_rows=4)
    config.train.update(steps=2, prompts=2, rows_per_update=2 * G, warmup_steps=0)
    return config


def test_the_group_of_a_truncated_jpeg_is_left_out_and_the_file_named_once(config, tmp_path, capsys):
    bad = own_data(tmp_path / "data", n_train=2)
    planned = plan(config)
    tasks, quarantine = planned.own_tasks, planned.quarantine
    assert quarantine.n_images == 0  # its header is good
    stage = tiny.Stage(Tokenizer.tiny(), n_slots=4, group_size=G, max_tokens=192, max_turn_tokens=32, max_pixels=7056)
    right = [(task, [f"<think>x</think><answer>{task.answers[0]}</answer>"]) for task in tasks["mat_coding"]["train"]]
    tools = tiny.InstantTools(lambda *_: Observation("seen"))
    rolls = rollouts.TrainRollouts.of_plan(planned, stage.engine, tasks, tools)
    rolls.orders = {"mat_coding": iter([0, 1, 1, 0])}
    shown = set()
    for step in (1, 2):
        rows = rolls.step(stage.params(right), step)
        assert len(rows) == 2 * G
        for tr in rows:
            if tr.task.id == bad:
                assert tr.status is Status.INFRA and tr.rewards == {}
                assert (tr.task.images[0].pixels == 128).all() and tr.task.images[0].size == (84, 84)
                shown.add(tr.images[0].sha256)
            else:
                assert tr.status is Status.ANSWERED and tr.rewards["em"] == 1.0
        valid = rollouts.valid_rows(config, rows)
        assert [bool(v) for v in valid] == [tr.task.id != bad for tr in rows] and valid.sum() == G
    said = capsys.readouterr().out
    assert quarantine.n_images == 1 and dict(quarantine.counts) == {"damage": 1} and len(shown) == 1
    assert said.count("a grey picture takes the place") == 1 and "cut.jpg" in said


@pytest.mark.slow  # half a minute: a whole run
def test_a_run_over_a_truncated_jpeg_reaches_its_end_and_counts_it(config, tmp_path):
    own_data(tmp_path / "data", n_train=2)
    config.model.text_config.update(hidden_size=32, intermediate_size=64, num_hidden_layers=2, mrope_section=(1, 1, 2))
    config.model.vision_config.update(hidden_size=32, intermediate_size=32)
    config.eval.update(every=0, bootstrap=20)
    config.tools.n_workers = 1
    results = trainer.train(config)
    assert "after" in results
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [row["data/quarantined"] for row in rows] == [1, 1]  # both tasks are drawn in each step
    assert [row["ended/infra"] for row in rows] == [0.5, 0.5]
