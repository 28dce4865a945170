import json
import sys

import numpy as np
import pytest

from arft_jax.data import source
from arft_jax.data.images import encode_png
from arft_jax.data.synthetic import coding, search
from arft_jax.trajectory import Image


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


def write_mat(folder, **changes):
    for name, value in (("o.png", 10), ("p.png", 200)):
        (folder / name).write_bytes(encode_png(Image(np.full((5, 6, 3), value, np.uint8))))
    item = dict(
        id=124, question="Read [0, 0, 9, 9].", answers=["a", "b"], ori_image_path="o.png",
        processed_image_path="p.png", type=["crop"], split="hard",
    )  # fmt: skip
    path = folder / "MAT-Coding.json"
    path.write_text(json.dumps([{k: v for k, v in (item | changes).items() if v is not None}]))
    return path


def test_mat_shows_the_original_for_crop_and_else_the_processed_image(tmp_path):
    (crop,) = source.load_mat_coding(write_mat(tmp_path), tmp_path)
    (dark,) = source.load_mat_coding(write_mat(tmp_path, type=["dark"]), tmp_path)
    assert crop.images[0].pixels[0, 0, 0] == 10 and dark.images[0].pixels[0, 0, 0] == 200
    assert crop.answers == ("a", "b") and crop.id == "124" and crop.problems == ("crop",)


def test_missing_image_or_key_names_the_item(tmp_path):
    with pytest.raises(ValueError, match=r"item 124: .*must exist.*gone\.png"):
        source.load_mat_coding(write_mat(tmp_path, ori_image_path="gone.png"), tmp_path)
    with pytest.raises(ValueError, match=r"item 124 of .*missing question"):
        source.load_mat_coding(write_mat(tmp_path, question=None), tmp_path)
    with pytest.raises(ValueError, match="readable JSON"):
        source.load_mat_coding(tmp_path / "no.json", tmp_path)


def test_real_mat_items_load(mat_dir):
    coding_tasks = source.load_mat_coding(mat_dir / "MAT-Coding.json", mat_dir)
    assert [task.images[0].size for task in coding_tasks] == [(1500, 1500), (923, 1337), (720, 1280)]
    (search_task,) = source.load_mat_search(mat_dir / "MAT-Search.json", mat_dir)
    assert search_task.images[0].size == (500, 500) and search_task.split == "simple"
