import json
import os
import sys

import pytest

from arft_jax.commands.tiny_data import make_tiny_data
from arft_jax.commands.tiny_steps import write_tiny_steps
from arft_jax.data import source
from arft_jax.data.images import Quarantine
from arft_jax.data.synthetic import coding, search


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("prepared")


def same(a, b):
    fields = ("id", "kind", "question", "answers", "problems", "split", "corpus")
    return all(getattr(a, f) == getattr(b, f) for f in fields) and [i.sha256 for i in a.images] == [
        i.sha256 for i in b.images
    ]


def test_prepared_coding_tasks_are_the_generators(data_dir):
    tasks = source.load_tasks("mini_coding", "train", data_dir, seed=7, n_train=12)
    assert len(tasks) == 12
    assert all(same(task, coding.make_item(7, "train", i).task()) for i, task in enumerate(tasks))
    assert all(task.images[0].name == "image_1" for task in tasks)


def test_prepared_search_tasks_are_the_generators(data_dir):
    tasks = source.load_tasks("mini_search", "test", data_dir, seed=7, n_train=3)
    items = search.make_items(7, "test", 150)
    assert all(same(task, item.task()) for task, item in zip(tasks, items, strict=True))


def test_a_second_load_reads_what_was_prepared(data_dir, monkeypatch):
    first = source.load_tasks("mini_search", "train", data_dir, seed=8, n_train=4)
    monkeypatch.setattr(search, "make_items", None)
    second = source.load_tasks("mini_search", "train", data_dir, seed=8, n_train=4)
    assert all(same(a, b) for a, b in zip(first, second, strict=True))


def test_no_tensorflow_is_imported(data_dir):
    source.load_tasks("mini_coding", "train", data_dir, seed=7, n_train=12)
    assert "tensorflow" not in sys.modules


def test_unknown_names_are_refused(data_dir):
    with pytest.raises(ValueError, match="config.data.tasks"):
        source.load_tasks("mini_chess", "train", data_dir)
    with pytest.raises(ValueError, match="split must be"):
        source.load_tasks("mini_coding", "dev", data_dir)


def test_the_users_own_task_sets_go_through_the_same_door(tmp_path):
    make_tiny_data(tmp_path / "data", n_train=3, n_test=4)
    splits = source.load_splits(["mat_search", "mat_coding"], tmp_path / "data", seed=5, n_train=2)
    assert {name: [len(split[s]) for s in source.SPLITS] for name, split in splits.items()} == {
        "mat_search": [2, 4],  # n_train is a cap of the training rows
        "mat_coding": [2, 4],
    }
    assert sorted(os.listdir(tmp_path / "data")) == ["mat_coding", "mat_search"]  # nothing was prepared
    assert splits["mat_coding"]["train"][0].kind == "coding"


@pytest.mark.parametrize("name", ["mat_coding", "mat_search", "mat_training_coding"])
def test_bad_training_images_are_quarantined_test_images_and_sets_of_nothing_else_refused(tmp_path, name):
    folder = tmp_path / "data"
    make_tiny_data(folder, n_train=3, n_test=2)
    write_tiny_steps(folder, n_items=3)
    options = dict(seed=0, n_train=100)
    good = source.load_splits([name], folder, **options)[name]
    first = good["train"][0].images[0]
    first.path.write_bytes(b"<html>not found</html>")
    quarantine = Quarantine()
    train = source.load_splits([name], folder, quarantine=quarantine, **options)[name]["train"]
    assert [t.images[0].is_bad for t in train] == [t.images[0].path == first.path for t in good["train"]]
    assert quarantine.n_images == 1 and str(first.path) in quarantine.messages[0]
    for task in good["train"]:
        task.images[0].path.write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match=rf"some image of {name}/train must be readable: .* \(config.data.dir\)"):
        source.load_splits([name], folder, quarantine=Quarantine(), **options)
    good["test"][0].images[0].path.write_bytes(b"")
    with pytest.raises(ValueError, match="image must be readable"):
        source.load_tasks(name, "test", folder, quarantine=Quarantine())


def test_a_set_whose_test_items_are_its_training_items_is_refused(tmp_path):
    make_tiny_data(tmp_path / "data", n_train=3, n_test=2)
    folder = tmp_path / "data" / "mat_coding"
    (folder / "test.json").write_bytes((folder / "train.json").read_bytes())
    same_items = r"must be others than its training items: mat_coding has the same 3 in both.*\(config.data.tasks\)"
    with pytest.raises(ValueError, match=same_items):
        source.load_splits(["mat_coding"], tmp_path / "data", seed=0, n_train=9)
    rows = json.loads((folder / "train.json").read_text())
    (folder / "test.json").write_text(json.dumps(rows[::-1], indent=2))  # other bytes, other order
    with pytest.raises(ValueError, match=same_items):
        source.load_splits(["mat_coding"], tmp_path / "data", seed=0, n_train=9)


def test_every_task_knows_its_set(data_dir):
    assert {task.task_set for task in source.load_tasks("mini_search", "test", data_dir, seed=7, n_train=3)} == {
        "mini_search"
    }
