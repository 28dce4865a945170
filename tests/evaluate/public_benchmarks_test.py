"""Public benchmarks beside MAT: named with where to get them, and asked over the documents of the data directory."""

import json

import pytest

from arft_jax.build import search_indices
from arft_jax.config import PUBLIC_TASKS, default_config
from arft_jax.data import flashrag, public_sets
from arft_jax.evaluate import benchmarks as sets
from arft_jax.evaluate import scoring


def write_qa(folder, name="bamboogle", split="test"):
    (folder / name).mkdir(parents=True)
    line = dict(id="q", question="Who?", golden_answers=["Ann"], metadata={})
    (folder / name / f"{split}.jsonl").write_text(json.dumps(line))


def test_the_config_knows_each_set_by_name():
    assert set(public_sets.SETS) == set(PUBLIC_TASKS)


@pytest.mark.parametrize("name", PUBLIC_TASKS)
def test_a_folder_without_the_files_is_told_what_they_are_and_where_to_get_them(name, tmp_path):
    wanted = public_sets.SETS[name]
    [empty] = sets.missing_files({name: name}, str(tmp_path), searches_here=False)
    assert empty.startswith(f"{name} needs a data directory with {wanted.needs}, from https://huggingface.co/datasets/")
    assert f"{tmp_path} has no {wanted.file(tmp_path).relative_to(tmp_path)} (config.data.dir)" in empty
    [none] = sets.missing_files({name: name}, "", searches_here=False)
    [absent] = sets.missing_files({name: name}, str(tmp_path / "x"), searches_here=False)
    assert "got none" in none and "is no directory" in absent


def test_the_documents_are_the_sets_own_or_wikipedia_as_flashrag_has_it(tmp_path):
    write_qa(tmp_path)
    entries = {"bamboogle": "bamboogle"}
    [problem] = sets.missing_files(entries, str(tmp_path), searches_here=True)
    assert "bamboogle searches the documents of bamboogle/corpus.jsonl or retrieval-corpus/wiki18_100w.jsonl" in problem
    assert sets.missing_files(entries, str(tmp_path), searches_here=False) == []
    config = default_config()
    config.data.tasks, config.data.dir = ("hotpotqa", "bamboogle"), str(tmp_path)
    assert search_indices.index_paths(config) == {}
    shared = tmp_path / "retrieval-corpus" / "wiki18_100w.jsonl"
    shared.parent.mkdir()
    shared.write_text('{"contents": "t\\nx"}')
    assert sets.missing_files(entries, str(tmp_path), searches_here=True) == []
    assert set(search_indices.index_paths(config).values()) == {shared.with_suffix(".index")}
    own = tmp_path / "bamboogle" / "corpus.jsonl"
    own.write_text('{"contents": "t\\nx"}')
    assert search_indices.index_paths(config)["bamboogle"] == own.with_suffix(".index")
    [benchmark] = [sets.load("bamboogle", "bamboogle", tmp_path, seed=0, n_train=1)]
    [task] = search_indices.route_tasks(config, {"bamboogle": {"test": benchmark.tasks}})["bamboogle"]["test"]
    assert task.corpus.startswith("bamboogle") and benchmark.halves == {"simple": 0, "hard": 0}


def test_a_set_of_the_users_own_goes_before_a_public_one_of_its_name():
    assert sets.entries_of(["hotpotqa"], ["jsonl:my/hotpotqa.jsonl"]) == {"hotpotqa": "jsonl:my/hotpotqa.jsonl"}
    assert sets.entries_of(["hotpotqa"], []) == {"hotpotqa": "hotpotqa"}


def test_published_predictions_of_a_text_set_are_scored_under_its_name(mat_dir):
    file = str(mat_dir / "predictions_bamboogle_visual_arft_3b.json")
    scores = scoring.score_file(file, "bamboogle")
    assert (scores["n"], scores["n_items"], scores["absent"]) == (flashrag.N_ITEMS["bamboogle"], 125, 0)
    assert scores["avg"] == scoring.score_file(file, "qa")["avg"]
    assert (round(scores["avg"]["f1"], 2), round(scores["avg"]["em"], 2)) == (49.01, 38.40)
