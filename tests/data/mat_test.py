"""The user's own data in the MAT layout: what becomes of an item, and which files are refused with the item's name."""

import json

import numpy as np
import pytest

from arft_jax.data import chat, image_files, mat
from arft_jax.data.images import ImageProcessor, decode_image, encode_png
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.trajectory import Image

CODING = dict(
    id=124, question="Read [0, 0, 9, 9].", answers=["a", "b"], ori_image_path="o.png", processed_image_path="p.png",
    type=["crop"], split="hard",
)  # fmt: skip
SEARCH = dict(id=3, question="Whose emblem is it?", answer="Ann", image_path="o.png")


def write(folder, name, *items, **changes):
    """A JSON file of items, each with the changes (None: without the key), beside two images; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    for file, value in (("o.png", 10), ("p.png", 200)):
        (folder / file).write_bytes(encode_png(Image(np.full((8, 9, 3), value, np.uint8))))
    rows = [{key: value for key, value in (item | changes).items() if value is not None} for item in items]
    (folder / name).write_text(json.dumps(rows))
    return folder / name


def test_the_original_is_shown_for_crop_and_else_the_processed_image(tmp_path):
    (crop,) = mat.load_mat_coding(write(tmp_path, "a.json", CODING), tmp_path)
    (dark,) = mat.load_mat_coding(write(tmp_path, "b.json", CODING, type=["dark"], ori_image_path="gone.png"), tmp_path)
    assert crop.images[0].pixels[0, 0, 0] == 10 and dark.images[0].pixels[0, 0, 0] == 200
    assert crop.answers == ("a", "b") and crop.id == "124" and crop.problems == ("crop",) and crop.kind == "coding"
    assert dark.problems == ("dark",) and dark.images[0].name == "image_1" and dark.split == "hard"


def test_the_first_half_of_search_items_is_simple_unless_they_say(tmp_path):
    items = [SEARCH | dict(id=i) for i in range(5)]
    path = write(tmp_path, "a.json", *items)
    assert [t.split for t in mat.load_mat_search(path, tmp_path)] == ["simple", "simple", "simple", "hard", "hard"]
    # of the whole file, however many are read; 75 of MAT's 150
    assert [t.split for t in mat.load_mat_search(path, tmp_path, 4)] == ["simple", "simple", "simple", "hard"]
    items[0] |= dict(split="hard", corpus="c", query="Ann emblem")
    first, second, *_ = mat.load_mat_search(write(tmp_path, "b.json", *items), tmp_path)
    assert (first.split, first.corpus, first.query) == ("hard", "c", "Ann emblem")
    assert (second.split, second.corpus, second.query, second.answers) == ("simple", "", "", ("Ann",))


REFUSALS = {
    "a missing image": (dict(ori_image_path="gone.png"), r"item 124 of .*: image file must exist: got .*gone\.png"),
    "a missing key": (dict(question=None), "item 124 of .*a.json must have .*: missing question"),
    "no question": (dict(question=" "), "item 124 of .*: question must be text: got ' '"),
    "a path out of the folder": (dict(ori_image_path="../o.png"), "item 124 of .*: an image path must stay in its"),
    "an absolute path": (dict(ori_image_path="/etc/hostname"), "item 124 of .*: an image path must stay in its"),
    "a path with a NUL": (dict(ori_image_path="o.png\0"), "item 124 of .*: ori_image_path must hold no NUL and no"),
    "no answers": (dict(answers=[]), "item 124 of .*: answers must be a list of one text or more: got"),
    "a type that is no list": (dict(type="crop"), "item 124 of .*: type must be a list .* got 'crop'"),
    "an unknown fault": (dict(type=["rotate45"]), "item 124 of .*json: type must be one of rot.*: got 'rotate45'"),
    "a fault in capitals": (dict(type=["Dark"]), "item 124 of .*: type must be .*: got 'Dark'; did you mean 'dark'"),
    "a blank answer": (
        dict(answers=["a", " "]),
        r"item 124 of .*: answers must hold no blank .* NaN: got \['a'",
    ),
    "a NaN answer": (dict(answers=[float("nan")]), r"item 124 of .*: answers must hold no blank .* NaN: got \[nan"),
    "an answer that is true": (dict(answers=[True]), "item 124 of .*: answers must hold no blank text and no NaN"),
    "a misspelt key": (dict(anwsers=["a"]), "item 124 of .*: the key 'anwsers' is unknown; did you mean 'answers'"),
    "an unknown split": (dict(split="medium"), "item 124 of .*: split must be one of .*: got 'medium'"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_an_item_that_is_not_of_the_layout_is_named(tmp_path, case):
    changes, sentence = REFUSALS[case]
    with pytest.raises(ValueError, match=sentence):
        mat.load_mat_coding(write(tmp_path, "a.json", CODING, **changes), tmp_path)


def test_files_that_hold_no_items_are_refused(tmp_path):
    path = tmp_path / "a.json"
    for text, sentence in {
        "[": "must be readable JSON",
        "{}": "list of items: got dict",
        "[]": "got an empty list",
        "[7]": "item at place 0",
    }.items():
        path.write_text(text)
        with pytest.raises(ValueError, match=sentence):
            mat.load_mat_search(path, tmp_path)
    with pytest.raises(ValueError, match="must be readable JSON"):
        mat.load_mat_search(tmp_path / "no.json", tmp_path)
    with pytest.raises(ValueError, match="ids of .* must differ: got 3 twice"):
        mat.load_mat_search(write(tmp_path, "a.json", SEARCH, SEARCH), tmp_path)


def test_the_benchmarks_own_file_names_are_the_test_split_where_there_is_no_other(tmp_path):
    benchmark = tmp_path / "MAT-Benchmark"
    images = benchmark / "MAT-Coding-image"
    write(images, "x.json", CODING).rename(benchmark / "MAT-Coding.json")
    write(tmp_path / "mat_coding", "train.json", CODING, id=1)
    assert [t.id for t in mat.load_split("mat_coding", "test", tmp_path)] == ["124"]
    assert [t.id for t in mat.load_split("mat_coding", "train", tmp_path)] == ["1"]
    assert mat.missing_files(["mat_coding"], str(tmp_path)) == []
    write(tmp_path / "mat_coding", "test.json", CODING, id=2)
    assert [t.id for t in mat.load_split("mat_coding", "test", tmp_path)] == ["2"]
    (tmp_path / "mat_coding" / "train.json").unlink()  # a benchmark is no training data
    [sentence] = mat.missing_files(["mat_coding"], str(tmp_path))
    assert "has no mat_coding/train.json (config.data.dir)" in sentence


def test_what_is_missing_is_one_sentence_with_the_key(tmp_path):
    both = ["mat_coding", "mat_search"]
    needed = "mat_coding/train.json, mat_coding/test.json, mat_search/train.json, mat_search/test.json, "
    head = f"data.dir must be a directory with {needed}mat_search/corpus.jsonl and their images: "
    assert mat.missing_files(both, "") == [f"{head}got none (config.data.dir)"]
    gone = str(tmp_path / "gone")
    assert mat.missing_files(both, gone) == [f"{head}got {gone}, which is no directory (config.data.dir)"]
    for name in both:
        for split in ("train", "test"):
            write(tmp_path / name, f"{split}.json", CODING)
    got = f"{tmp_path} has no mat_search/corpus.jsonl (config.data.dir)"
    assert mat.missing_files(both, str(tmp_path)) == [head + got]
    assert mat.missing_files(["mat_coding"], str(tmp_path)) == [] == mat.missing_files(["mini_search"], "")


def test_real_mat_items_load(mat_dir):
    coding = mat.load_mat_coding(mat_dir / "MAT-Coding.json", mat_dir)
    sizes = [(1500, 1500), (923, 1337), (720, 1280)]
    assert [task.images[0].size for task in coding] == sizes
    assert [task.images[0].pixels.shape[:2] for task in coding] == sizes
    (search,) = mat.load_mat_search(mat_dir / "MAT-Search.json", mat_dir)
    assert search.images[0].size == (500, 500) and search.split == "simple"


def test_a_prompt_is_made_from_the_header_and_is_the_decoded_images(tmp_path, monkeypatch):
    (task,) = mat.load_mat_coding(write(tmp_path, "a.json", CODING), tmp_path)
    tokenizer, processor = Tokenizer.tiny(), ImageProcessor(28 * 28, 56 * 56)
    eager = chat.prompt_segment(tokenizer, processor, "", task.question, [decode_image(tmp_path / "o.png")])
    monkeypatch.setattr(image_files, "decode_image", None)
    lazy = chat.prompt_segment(tokenizer, processor, "", task.question, task.images)
    np.testing.assert_array_equal(lazy.tokens, eager.tokens)
    assert lazy.grids == eager.grids and lazy.images == task.images


def test_the_layout_of_the_docstring_is_the_one_that_is_read():
    assert all(f'"{key}"' in mat.__doc__ for keys in mat._KEYS.values() for key in keys)
    assert mat.CORPUS in mat.__doc__


def test_search_items_know_their_optional_keys_and_refuse_what_looks_like_one(tmp_path):
    mat.load_mat_search(write(tmp_path, "a.json", SEARCH, note="kept", source="web"), tmp_path)  # keys of its own
    with pytest.raises(ValueError, match="item 3 of .*: the key 'corpuss' is unknown; did you mean 'corpus'"):
        mat.load_mat_search(write(tmp_path, "b.json", SEARCH, corpuss="c"), tmp_path)
    with pytest.raises(ValueError, match="item 3 of .*: answer must hold no blank text"):
        mat.load_mat_search(write(tmp_path, "c.json", SEARCH, answer=""), tmp_path)
