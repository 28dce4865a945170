"""Configurations by name."""

import pathlib

import pytest

from arft_jax.commands import shipped


def test_a_name_is_the_file_in_configs_and_keeps_its_variant(repo_root):
    assert shipped.find_config("tiny_cpu") == str(repo_root / "configs" / "tiny_cpu.py")
    assert shipped.find_config("tiny_cpu:smoke") == str(repo_root / "configs" / "tiny_cpu.py") + ":smoke"
    assert set(shipped.shipped_configs()) == {path.stem for path in (repo_root / "configs").glob("*.py")}


def test_a_path_is_left_alone_and_a_name_goes_before_a_folder_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("tiny_cpu").mkdir()
    pathlib.Path("mine").mkdir()
    for value in ("configs/tiny_cpu.py:smoke", "nowhere.py", "mine", ""):
        assert shipped.find_config(value) == value
    assert shipped.find_config("tiny_cpu").endswith("configs/tiny_cpu.py")


def test_a_misspelt_name_is_answered_with_the_nearest_and_with_all():
    with pytest.raises(ValueError, match=r"\(bench_cpu, .*tiny_cpu, .*\): got 'tiny_gpu'; did you mean 'tiny_cpu'\?"):
        shipped.find_config("tiny_gpu:smoke")


def test_a_path_that_is_not_there_hints_at_the_shipped_one(repo_root):
    assert shipped.hint("elsewhere/tiny_cpu.py:smoke") == "; did you mean --config=tiny_cpu?"
    assert shipped.hint(str(repo_root / "configs" / "tiny_cpu.py")) == shipped.hint("elsewhere/zzz.py") == ""
