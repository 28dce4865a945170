"""Benchmarks by name: which there are, what is missing, which items a part takes, and images that show nothing."""

import dataclasses

import numpy as np
import pytest

from arft_jax.commands.tiny_data import make_tiny_data
from arft_jax.evaluate import benchmarks as sets
from arft_jax.evaluate import published
from arft_jax.tools.bank import ImageBank
from arft_jax.trajectory import Image


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("data") / "tiny"
    make_tiny_data(made, n_train=1, n_test=6)
    return made


def load(folder, name="mat_coding"):
    return sets.load(name, name, folder, seed=0, n_train=1)


def test_names_are_those_of_the_package_and_of_the_configuration():
    known = sets.entries_of(["photos", "mat_search"], ["mini_coding", "jsonl:a/photos.jsonl"])
    assert known == {"photos": "jsonl:a/photos.jsonl", "mat_search": "mat_search"}
    for names, got in ((["chess"], "'chess'"), ([], "none"), (["mini_coding"] * 2, "mini_coding, mini_coding")):
        with pytest.raises(ValueError, match=f"benchmark must be among mat_coding, .*each once: got {got};"):
            sets.entries_of(names, ["mini_coding"])


def test_a_folder_without_the_files_is_told_what_they_are_and_where_to_get_them(tmp_path, folder):
    both = {"mat_coding": "mat_coding", "mat_search": "mat_search"}
    assert sets.missing_files(both, str(folder), searches_here=True) == []
    [coding, search] = sets.missing_files(both, str(tmp_path), searches_here=True)
    assert "mat_coding needs a data directory with mat_coding/test.json, or MAT-Benchmark/MAT-Coding.json and" in coding
    assert "https://huggingface.co/datasets/laolao77/MAT" in coding and f"{tmp_path} has neither" in coding
    assert "MAT-Search-image/" in search and search.endswith("(config.data.dir)")
    [none] = sets.missing_files({"mat_coding": "mat_coding"}, "", searches_here=True)
    [absent] = sets.missing_files({"mat_coding": "mat_coding"}, str(tmp_path / "x"), searches_here=True)
    assert "got none" in none and "is no directory" in absent
    [own] = sets.missing_files({"photos": f"jsonl:{tmp_path}/photos.jsonl"}, "", searches_here=True)
    assert own == f"the file of photos must exist: got {tmp_path}/photos.jsonl (config.data.tasks)"


def test_documents_are_needed_where_they_are_searched_here(tmp_path, folder):
    (tmp_path / "mat_search").mkdir()
    (tmp_path / "mat_search" / "test.json").write_text((folder / "mat_search" / "test.json").read_text())
    entries = {"mat_search": "mat_search"}
    [problem] = sets.missing_files(entries, str(tmp_path), searches_here=True)
    assert "searches the documents of mat_search/corpus.jsonl" in problem
    assert sets.missing_files(entries, str(tmp_path), searches_here=False) == []


def test_a_benchmark_knows_its_halves_and_the_published_rows(folder):
    benchmark = load(folder)
    assert benchmark.n_items == 6 and sum(benchmark.halves.values()) == 6 and min(benchmark.halves.values()) > 0
    assert len(published.rows_of(benchmark.name)) == 11


def test_a_part_is_spread_over_the_benchmark():
    benchmark = sets.Benchmark("x", tuple(range(9)), "")
    assert benchmark.picked(0) == benchmark.picked(9) == benchmark.picked(20) == tuple(range(9))
    assert benchmark.picked(3) == (0, 4, 8) and benchmark.picked(1) == (0,)


def test_other_texts_and_other_pixels_are_other_items(folder, tmp_path):
    benchmark = load(folder)
    assert load(folder).sha256 == benchmark.sha256
    image = benchmark.tasks[0].images[0].path
    before = image.read_bytes()
    try:
        image.write_bytes(before + b" ")
        assert load(folder).sha256 != benchmark.sha256
    finally:
        image.write_bytes(before)
    questions = folder / "mat_coding" / "test.json"
    text = questions.read_text()
    try:
        questions.write_text(text.replace('"question": "', '"question": "Now: ', 1))
        assert load(folder).sha256 != benchmark.sha256
    finally:
        questions.write_text(text)


def test_a_damaged_image_is_named_before_an_item_is_asked(folder):
    benchmark = load(folder)
    sets.check_images(benchmark.tasks)
    image = benchmark.tasks[2].images[0].path
    before = image.read_bytes()
    try:
        image.write_bytes(before[:-200])  # its header is whole
        with pytest.raises(ValueError, match=f"item {benchmark.tasks[2].id} of .*: "):
            sets.check_images(load(folder).tasks)
    finally:
        image.write_bytes(before)


def test_without_sight_every_image_is_grey_and_of_the_same_size(folder):
    task = load(folder).tasks[1]
    two = dataclasses.replace(task, images=(*task.images, Image(np.zeros((5, 7, 3), np.uint8), "image_2")))
    blind = sets.without_sight(two)
    assert [image.size for image in blind.images] == [image.size for image in two.images]
    assert [image.name for image in blind.images] == ["image_1", "image_2"]
    for image in blind.images:
        assert (
            image.pixels.dtype == np.uint8
            and image.pixels.shape == (*image.size, 3)
            and set(image.pixels.flat) == {128}
        )
        assert image.sha256 == Image(image.pixels).sha256
    assert blind.question == task.question and blind.answers == task.answers
    assert ImageBank(blind.images).last is blind.images[-1]  # the tools meet the same
