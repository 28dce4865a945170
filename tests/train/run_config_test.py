"""A run's configuration comes back from its work directory."""

import json
import os

import ml_collections
import pytest

from arft_jax.config import default_config
from arft_jax.objective_keys import filled
from arft_jax.train import run_config
from arft_jax.train.run_config import load_run_config, written_keys
from arft_jax.train.run_dir import RunDir


@pytest.fixture
def config(tmp_path):
    config = default_config()
    config.workdir = str(tmp_path / "run")
    config.train.update(steps=7, learning_rate=0.5)
    config.data.tasks = ("mini_coding",)
    return config


def test_what_was_written_comes_back_wherever_the_directory_is_now(config, tmp_path):
    config.compilation_cache = "elsewhere"
    RunDir(config)
    os.rename(config.workdir, tmp_path / "moved")
    found = load_run_config(tmp_path / "moved")
    config.update(workdir=str(tmp_path / "moved"), compilation_cache=default_config().compilation_cache)
    # the objective's keys are written as they were resolved
    assert found.to_dict() == filled(config).to_dict() and found.is_locked and found.data.tasks == ("mini_coding",)
    RunDir(found)  # the same run


def test_keys_of_the_user_come_back_in_a_group_that_is_empty_by_default(config, tmp_path, monkeypatch):
    def with_free_group():
        made = default_config()
        with made.unlocked():
            made.extra = ml_collections.ConfigDict({"free": {}}, convert_dict=False)
        return made

    monkeypatch.setattr(run_config, "default_config", with_free_group)
    mine = with_free_group()
    mine.update(workdir=config.workdir)
    mine.extra.free = {"my_package.rewards:turns": 0.5}
    RunDir(mine)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["config"]["extra.free.my_package.rewards:turns"]
    found = load_run_config(config.workdir)
    assert found.extra.free == {"my_package.rewards:turns": 0.5}


def test_the_runs_own_copies_of_tokenizer_and_weights_are_read(config, tmp_path):
    hf = tmp_path / "hf"
    hf.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (hf / name).write_text("{}")
    config.weights = str(hf)
    RunDir(config)
    kept = str(tmp_path / "run" / "hf")
    found = load_run_config(config.workdir)
    assert (found.weights, found.tokenizer) == (kept, kept)
    os.remove(tmp_path / "run" / "hf" / "config.json")  # a tokenizer alone was given
    assert load_run_config(config.workdir).weights == ""


def test_what_is_no_run_is_one_sentence(config, tmp_path):
    with pytest.raises(
        ValueError, match=r"must hold a run, whose configuration is config.json: got .*run \(--workdir\)"
    ):
        load_run_config(config.workdir)
    RunDir(config)
    path = tmp_path / "run" / "config.json"
    for text in ("{", "[]", "{}", '{"config": 3}'):
        path.write_text(text)
        with pytest.raises(ValueError, match="config.json must be the configuration of a run"):
            load_run_config(config.workdir)
    path.write_text('{"config": {"train.stepz": 3}}')
    with pytest.raises(ValueError, match="must be of this version: it has the key 'train.stepz'"):
        load_run_config(config.workdir)


def test_of_a_run_from_an_adapter_its_rank_comes_back_and_the_directory_is_not_needed(config, tmp_path):
    config.model.lora.update(rank=4, adapter=str(tmp_path / "gone"))
    RunDir(config)
    assert written_keys(config.workdir)["model.lora.adapter"] == str(tmp_path / "gone")
    found = load_run_config(config.workdir).model.lora
    assert (found.rank, found.adapter) == (4, "")
