"""The work directory: whose it is, and results that are whole or absent."""

import json
import math
import os
import shutil

import pytest

from arft_jax.config import default_config
from arft_jax.train.run_dir import RunDir, flatten, write_json


@pytest.fixture
def config(tmp_path):
    config = default_config()
    config.workdir = str(tmp_path / "a" / "run")
    return config


def test_flatten_joins_names_and_makes_lists_of_tuples():
    assert flatten({"a": {"b": 1, "c": {"d": (1, 2)}}, "e": None}) == {"a.b": 1, "a.c.d": [1, 2], "e": None}


def test_a_new_directory_gets_the_config_and_the_versions(config):
    directory = RunDir(config)
    written = json.loads((directory.path / "config.json").read_text())
    assert written["config"]["rollout.group_size"] == config.rollout.group_size
    assert "workdir" not in written["config"] and "compilation_cache" not in written["config"]
    assert written["versions"]["jax"] not in ("", "absent") and written["versions"]["commit"]
    assert directory.results() == {}


def test_the_same_config_may_come_again_from_another_place(config, tmp_path):
    RunDir(config)
    config.compilation_cache = ""
    RunDir(config)
    moved = tmp_path / "moved"
    os.rename(config.workdir, moved)
    config.workdir = str(moved)
    RunDir(config)


def test_the_written_config_has_the_values_of_the_objective(config):
    """A name and the keys that it stands for are one run, also after the table of names has changed."""
    config.train.objective = "gspo"
    written = json.loads((RunDir(config).path / "config.json").read_text())["config"]
    assert (written["train.ratio"], written["train.epsilon_low"]) == ("sequence", 3e-4)
    config.train.ratio = "sequence"
    RunDir(config)
    config.train.epsilon_low = 0.1
    with pytest.raises(ValueError, match="train.epsilon_low=0.0003 there and 0.1 here"):
        RunDir(config)


def test_another_config_is_refused_with_every_difference(config):
    RunDir(config)
    config.train.steps, config.data.tasks = 7, ("mini_coding",)
    with pytest.raises(ValueError) as error:
        RunDir(config)
    text = str(error.value)
    assert "train.steps=100 there and 7 here" in text and "data.tasks=['mini_coding', 'mini_search'] there" in text
    config.rollout.update(n_slots=65, extend_rows=3, temperature=0.9, top_k=5)
    with pytest.raises(ValueError, match=r" and 1 more; resume with the old values .* \(config.workdir\)"):
        RunDir(config)


def test_a_directory_of_other_files_is_refused(config, tmp_path):
    (tmp_path / "a" / "run").mkdir(parents=True)
    RunDir(config)  # empty: taken
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("dear")
    config.workdir = str(other)
    with pytest.raises(ValueError, match="must be empty or hold a run of this config: .*other holds other files"):
        RunDir(config)
    assert os.listdir(other) == ["thesis.txt"]


def test_a_path_that_cannot_be_made_is_a_sentence(config, tmp_path):
    (tmp_path / "file").write_text("")
    config.workdir = str(tmp_path / "file" / "run")
    with pytest.raises(ValueError, match=r"must be writable: got .*file/run .*\(config.workdir\)"):
        RunDir(config)


def test_a_directory_that_became_read_only_is_a_sentence(config, monkeypatch):
    RunDir(config)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ValueError, match=r"must be writable: got .*Permission denied: .*run\) \(config.workdir\)"):
        RunDir(config)


def test_results_of_stages_add_up(config):
    directory = RunDir(config)
    directory.add_result("before", {"f1": 1.0})
    directory.add_result("after", {"f1": 2.0})
    directory.add_result("before", {"f1": 3.0})
    assert RunDir(config).results() == {"before": {"f1": 3.0}, "after": {"f1": 2.0}}


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": "é"})
    with pytest.raises(ValueError):
        write_json(path, {"a": math.nan})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": "é"} and os.listdir(tmp_path) == ["x.json"]


def test_a_run_keeps_the_files_of_its_weights_and_an_older_one_gets_them(config, tmp_path):
    RunDir(config)
    assert not (tmp_path / "a" / "run" / "hf").exists()  # everything is drawn from the seed
    hf = tmp_path / "hf"
    hf.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (hf / name).write_text("{}")
    config.update(weights=str(hf), workdir=str(tmp_path / "b"))
    for _ in range(2):
        RunDir(config)
        assert sorted(os.listdir(tmp_path / "b" / "hf")) == ["config.json", "tokenizer.json"]
        shutil.rmtree(tmp_path / "b" / "hf")


def test_whom_an_evaluation_asks_is_no_part_of_a_run(config):
    RunDir(config)
    config.openai.model, config.openai.extra = "gpt-4o", {"seed": 1}
    directory = RunDir(config)
    assert not any(
        key.startswith("openai.") for key in json.loads((directory.path / "config.json").read_text())["config"]
    )
