"""The examples of docs/your_reward.md and docs/your_data.md, executed as they are written."""

import os
import re
import shlex
import subprocess
import sys
import warnings

import pytest
from absl import flags
from ml_collections import config_flags

from arft_jax.build.plan import plan
from arft_jax.build.rewards import make_scorer
from arft_jax.build.search_indices import route_tasks
from arft_jax.config_checks import validate
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.testing import tiny_rollout as tiny
from arft_jax.train.run_dir import RunDir
from arft_jax.trajectory import Observation

MAX_LINES = 40
FILES = {"your_reward": "my_reward.py", "your_data": "photos.py"}


def blocks(repo_root, name, language):
    text = (repo_root / "docs" / f"{name}.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@pytest.fixture
def example(repo_root, tmp_path, monkeypatch):
    """Writes the Python of a page to its file in a directory that looks like the checkout; returns its command line."""
    for folder in ("configs", "launch"):
        (tmp_path / folder).symlink_to(repo_root / folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [part for part in sys.path if part])

    def write(name):
        [code], [command] = blocks(repo_root, name, "python"), blocks(repo_root, name, "bash")
        assert code.count("\n") + command.count("\n") < MAX_LINES
        (tmp_path / FILES[name]).write_text(code)
        return shlex.split(command.replace("\\\n", " "))

    yield write
    for file in FILES.values():
        sys.modules.pop(file.removesuffix(".py"), None)


def config_of(argv, monkeypatch):
    """The config that a command line gives."""
    monkeypatch.setattr(sys, "argv", argv[1:])
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of ml_collections' way to load a file
        values(argv[1:])
    return values.config


def run(argv, repo_root):
    ended = subprocess.run(argv, env=os.environ | {"PYTHONPATH": str(repo_root)}, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_the_reward_that_counts_turns_is_logged_by_its_parts_and_weighed(example, monkeypatch):
    config = config_of(example("your_reward"), monkeypatch)
    validate(config)
    RunDir(config)
    stage = tiny.Stage(Tokenizer.tiny(), n_slots=1, group_size=1, max_turn_tokens=32)
    said = ("<think>a</think><search>b</search>", "<think>a</think><answer>7</answer>")
    [[played]] = stage.play([(tiny.tiny_task(1), said)], tiny.InstantTools(lambda *_: Observation("seen")))
    rewards = make_scorer(config)(played).rewards
    assert (rewards["turns/count"], rewards["turns/calls"], rewards["turns"]) == (2.0, 1.0, 3.0)
    assert rewards["total"] == pytest.approx(2.0 - 0.05 * 3)


def test_the_three_photographs_are_a_set_to_train_and_to_imitate(example, repo_root, monkeypatch):
    command = example("your_data")
    run([sys.executable, FILES["your_data"]], repo_root)
    config = config_of(command, monkeypatch)
    planned = plan(config)
    splits = planned.own_tasks
    assert {split: [task.id for task in items] for split, items in splits["photos"].items()} == {
        "train": ["sky", "grass"], "test": ["brick"]
    }  # fmt: skip
    [task] = route_tasks(config, splits)["photos"]["test"]
    assert task.images[0].size == (96, 128) and task.extra == {"camera": {"grain": 12}} and task.corpus == ""
    [chain] = planned.chains
    ours = planned.system(task)
    assert planned.system(chain.task) != ours and ours.startswith("Look, then answer.\n")
    assert chain.turns[0].text == "<think>Blue.</think><answer>sky</answer>" and len(chain.task.images) == 1


@pytest.mark.slow  # minutes: whole runs
@pytest.mark.parametrize("name", FILES)
def test_the_commands_of_the_pages_run_as_they_are_written(example, repo_root, tmp_path, name):
    command = example(name)
    if name == "your_data":
        run([sys.executable, FILES[name]], repo_root)
    workdir = next(part.split("=")[1] for part in command if part.startswith("--config.workdir="))
    run([sys.executable, *command[1:]], repo_root)
    assert (tmp_path / workdir / "report.html").is_file()
