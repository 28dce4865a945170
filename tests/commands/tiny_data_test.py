"""The small data directory: it loads as what the generators drew, follows from its seed, and is whole or absent."""

import json
import os

import numpy as np
import pytest

from arft_jax.commands import tiny_data
from arft_jax.commands.tiny_data import make_tiny_data
from arft_jax.data import mat, source
from arft_jax.data.synthetic import coding, search
from arft_jax.tools import search_corpus
from arft_jax.tools.search_index import SearchIndex


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "data"
    make_tiny_data(path, seed=3, n_train=4, n_test=6)
    return path


def same(a, b):
    fields = ("id", "kind", "question", "answers", "problems", "split", "corpus", "query")
    return all(getattr(a, f) == getattr(b, f) for f in fields) and [i.sha256 for i in a.images] == [
        i.sha256 for i in b.images
    ]


def test_it_loads_as_the_generators_items(folder):
    assert mat.missing_files(mat.NAMES, str(folder)) == []
    splits = source.load_splits(mat.NAMES, folder, seed=0, n_train=100)
    made = [coding.make_item(3, "train", i).task() for i in range(4)]
    assert all(same(a, b) for a, b in zip(splits["mat_coding"]["train"], made, strict=True))
    made = [item.task() for item in search.make_items(3, "train", 4)]
    assert all(same(a, b) for a, b in zip(splits["mat_search"]["train"], made, strict=True))
    for split in splits.values():
        assert len(split["test"]) == 6 and {task.split for task in split["test"]} == {"simple", "hard"}


def test_the_corpus_answers_the_questions(folder, tmp_path):
    search_corpus.index_corpus(folder / mat.CORPUS, tmp_path / "i.index")
    with SearchIndex(tmp_path / "i.index") as index:
        for task in mat.load_split("mat_search", "train", folder):
            [hit] = index.search(task.query, 1, task.corpus)
            assert hit.title == task.query
            assert task.split == "hard" or hit.text == task.answers[0]


def test_another_seed_is_other_data(folder, tmp_path):
    make_tiny_data(tmp_path / "b", seed=4, n_train=4, n_test=6)
    make_tiny_data(tmp_path / "c", seed=3, n_train=4, n_test=6)
    for name in ("mat_coding/train.json", "mat_search/corpus.jsonl"):
        assert (tmp_path / "c" / name).read_bytes() == (folder / name).read_bytes()
        assert (tmp_path / "b" / name).read_bytes() != (folder / name).read_bytes()


def test_bad_arguments_write_nothing(tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ValueError, match="must be new or empty: got .*full"):
        make_tiny_data(tmp_path / "full")
    for counts in (dict(n_train=0), dict(n_test=1), dict(n_test=151)):
        with pytest.raises(ValueError, match="n_train must be at least 1 and n_test between 2 and 150"):
            make_tiny_data(tmp_path / "new", **counts)
    monkeypatch.setattr(tiny_data, "make_documents", lambda seed: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make_tiny_data(tmp_path / "new", n_train=1, n_test=2)
    assert os.listdir(tmp_path) == ["full"]


def test_paths_in_it_are_relative(folder):
    rows = json.loads((folder / "mat_coding" / "train.json").read_text())
    assert all(row["processed_image_path"].startswith("images/") for row in rows)
    assert np.all([not os.path.isabs(row["ori_image_path"]) for row in rows])
