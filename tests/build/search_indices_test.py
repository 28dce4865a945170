"""Which local indices the task sets of a config search, and how their tasks are led there."""

import dataclasses
import json

import pytest

from arft_jax.build import data
from arft_jax.build.plan import check_inputs
from arft_jax.build.search_indices import (
    check_collections,
    found_indices,
    index_paths,
    make_indices,
    route_tasks,
    searching_sets,
)
from arft_jax.config import default_config
from arft_jax.data.images import Quarantine
from arft_jax.tools.search_router import ALL, open_indices
from arft_jax.trajectory import Task


def own_set(folder, name, fact=None):
    """A file of two items, and a corpus of one fact beside it."""
    lines = [dict(id="a", question="?", answers="x"), dict(id="b", question="?", answers="y", split="test")]
    (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    if fact:
        (folder / f"{name}.corpus.jsonl").write_text(json.dumps(dict(title="Fact", text=fact)))
    return f"jsonl:{folder / name}.jsonl"


@pytest.fixture
def config(tmp_path):
    made = default_config()
    made.workdir, made.warm_start.steps = str(tmp_path / "run"), 0
    return made


def test_each_set_searches_the_corpus_beside_its_file_or_the_one_that_the_config_names(config, tmp_path):
    (tmp_path / "other.jsonl").write_text(json.dumps(dict(title="Fact", text="Trees grow")))
    config.data.tasks = (own_set(tmp_path, "birds", "Birds fly"), own_set(tmp_path, "trees"), own_set(tmp_path, "bare"))
    config.data.corpora = {"trees": str(tmp_path / "other.jsonl")}
    tasks = route_tasks(config, data.read_own_tasks(config, Quarantine()))
    make_indices(config)
    paths = found_indices(config)
    assert paths == {"birds": tmp_path / "birds.corpus.index", "trees": tmp_path / "other.index"}
    corpora = {name: splits["test"][0].corpus for name, splits in tasks.items()}
    with open_indices(paths) as search:
        found = {name: [hit.text for hit in search.search("fact", 3, corpus)] for name, corpus in corpora.items()}
    assert found == {"birds": ["Birds fly"], "trees": ["Trees grow"], "bare": []}
    config.data.corpora = {"trees": str(tmp_path / "gone.jsonl")}
    with pytest.raises(ValueError, match=r"the file must exist: got .*gone.jsonl \(config.data.corpora\)"):
        check_inputs(config)
    config.data.update(tasks=("jsonl:no/birds.jsonl",), corpora={})
    with pytest.raises(ValueError, match=r"the file must exist: got no/birds.jsonl \(config.data.tasks\)"):
        check_inputs(config)


def test_a_set_that_searches_alone_keeps_its_corpora_as_they_are(config, tmp_path):
    config.data.tasks = ("mini_coding", own_set(tmp_path, "birds", "Birds fly"))
    assert index_paths(config) == {ALL: tmp_path / "birds.corpus.index"}
    tasks = {"birds": {"train": [Task("a", "general", "?", (), ("x",), corpus="north")]}}
    assert route_tasks(config, tasks)["birds"]["train"][0].corpus == "north"
    config.data.tasks = ("mini_coding", own_set(tmp_path, "bare"))
    assert found_indices(config) is None  # it may search, and there is nothing to be searched
    config.data.tasks = ("mini_coding",)
    assert found_indices(config) is None and searching_sets(config) == []


def test_the_mini_and_the_mat_sets_are_led_to_theirs_beside_others(config, tmp_path):
    config.data.update(tasks=("mini_search", "mat_search", "mini_coding"), dir=str(tmp_path))
    paths = index_paths(config)
    assert list(paths) == ["mini_search", "mat_search"] and paths["mini_search"].name == "mini_search-0.index"
    task = Task("a", "search", "?", (), ("x",), corpus="world 3")
    tasks = route_tasks(config, {name: {"train": [task]} for name in config.data.tasks})
    assert [tasks[name]["train"][0].corpus for name in config.data.tasks] == [
        "mini_search:world 3", "mat_search:world 3", "world 3"
    ]  # fmt: skip
    config.tools.search.backend = "http"  # no index of this machine is asked
    assert route_tasks(config, {"mat_search": {"train": [task]}})["mat_search"]["train"][0].corpus == "world 3"


def test_one_collection_of_a_service_is_refused_with_the_task_that_asks_for_it(config):
    task = Task("rome", "search", "?", (), (), corpus="old")
    check_collections(config, [task])
    config.tools.search.backend = "serper"
    check_collections(config, [dataclasses.replace(task, corpus="")])
    with pytest.raises(ValueError, match=r"no collections: got corpus='old' of the task 'rome' .*backend='serper'"):
        check_collections(config, [task])
