"""Downloaded sets for TFDS: the records are those of the readers, bad ones are counted and named, no TensorFlow."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds

from arft_jax.commands.cli import prepare_data as cli
from arft_jax.commands.prepare_data import prepare
from arft_jax.commands.tiny_data import make_tiny_data
from arft_jax.commands.tiny_steps import write_tiny_steps
from arft_jax.data import flashrag, mat, recorded_steps

N_QA = 230  # more than two of the batches in which TFDS writes Parquet
PLAIN = """
import sys
import tensorflow_datasets as tfds

rows = tfds.data_source("mat_coding", split="test", data_dir=sys.argv[1])
print(len(rows), rows[0]["question"].decode(), rows[0]["image"].shape)
print(tfds.builder("mat_coding", data_dir=sys.argv[1]).info.metadata["bad_records"])
assert not {"tensorflow", "arft_jax", "jax"} & set(sys.modules)
"""


def write_qa(folder, name, split, n):
    (folder / name).mkdir(exist_ok=True)
    lines = [dict(id=f"{split}_{i}", question=f"Q{i}?", golden_answers=[f"a{i}"], metadata={}) for i in range(n)]
    (folder / name / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with every set but two of the text sets."""
    folder = tmp_path_factory.mktemp("downloaded") / "data"
    make_tiny_data(folder, n_train=3, n_test=4)
    write_tiny_steps(folder, n_items=2)
    write_qa(folder, "hotpotqa", "train", 2)
    write_qa(folder, "hotpotqa", "dev", N_QA)
    write_qa(folder, "bamboogle", "test", 3)
    return folder


@pytest.fixture(scope="module")
def prepared(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared")
    return out, {done.name: done for done in prepare([], str(data), str(out))}


def text(value):
    return value.decode() if isinstance(value, bytes) else [text(each) for each in value]


def test_every_set_whose_files_are_there_is_prepared(prepared):
    _, sets = prepared
    assert {name: (done.n_records, done.tfds_name) for name, done in sets.items()} == {
        "mat_coding": ({"train": 3, "test": 4}, "mat_coding"),
        "mat_search": ({"train": 3, "test": 4}, "mat_search"),
        "mat_training_coding": ({"train": sets["mat_training_coding"].n_records["train"]}, "mat_training_coding"),
        "mat_training_search": ({"train": sets["mat_training_search"].n_records["train"]}, "mat_training_search"),
        "hotpotqa": ({"train": 2, "dev": N_QA}, "multihop_qa/hotpotqa"),
        "bamboogle": ({"test": 3}, "multihop_qa/bamboogle"),
    }
    assert all(not any(done.bad.values()) and done.is_new for done in sets.values())


def test_records_are_the_tasks_of_the_readers_in_their_order(data, prepared):
    out, _ = prepared
    rows = tfds.data_source("mat_coding", split="test", data_dir=str(out))
    for row, task in zip(rows, mat.load_split("mat_coding", "test", data), strict=True):
        assert (text(row["id"]), text(row["question"]), text(row["split"])) == (task.id, task.question, task.split)
        assert (tuple(text(row["answers"])), tuple(text(row["type"]))) == (task.answers, task.problems)
        assert np.array_equal(row["image"], task.images[0].pixels)
    rows = tfds.data_source("mat_search", split="train", data_dir=str(out))
    for row, task in zip(rows, mat.load_split("mat_search", "train", data), strict=True):
        assert [text(row[key]) for key in ("answer", "corpus", "query")] == [*task.answers, task.corpus, task.query]
        assert np.array_equal(row["image"], task.images[0].pixels)
    for name in recorded_steps.NAMES:
        rows = tfds.data_source(name, split="train", data_dir=str(out))
        for row, task in zip(rows, recorded_steps.load_split(name, "train", data), strict=True):
            assert (text(row["question"]), text(row["target"])) == (task.question, task.target)
            assert np.array_equal(row["image"], task.images[0].pixels)
    rows = tfds.data_source("multihop_qa/hotpotqa", split="dev", data_dir=str(out))
    for row, task in zip(rows, flashrag.load_split("hotpotqa", "dev", data), strict=True):
        assert (text(row["question"]), tuple(text(row["golden_answers"]))) == (task.question, task.answers)


def test_a_plain_script_reads_them_without_this_package_and_without_tensorflow(prepared, tmp_path):
    out, _ = prepared
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", PLAIN, str(out)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith("4 ") and done.stdout.splitlines()[0].endswith(", 3)")
    assert done.stdout.splitlines()[1] == "{'train': [], 'test': []}"


def test_real_mat_items_are_prepared_with_the_files_own_bytes(mat_dir, tmp_path):
    for name in ("Coding", "Search"):
        images = tmp_path / "MAT-Benchmark" / f"MAT-{name}-image"
        images.parent.mkdir(exist_ok=True)
        images.symlink_to(mat_dir)
        (images.parent / f"MAT-{name}.json").write_bytes((mat_dir / f"MAT-{name}.json").read_bytes())
    found = list(prepare([], str(tmp_path), str(tmp_path / "out")))
    assert [(done.name, done.n_records) for done in found] == [("mat_coding", {"test": 3}), ("mat_search", {"test": 1})]
    options = dict(split="test", data_dir=str(tmp_path / "out"), decoders={"image": tfds.decode.SkipDecoding()})
    row = tfds.data_source("mat_coding", **options)[1]
    assert bytes(row["image"]) == (mat_dir / "dark_1_proc.png").read_bytes() and text(row["type"]) == ["dark"]
    [row] = tfds.data_source("mat_search", split="test", data_dir=str(tmp_path / "out"))
    assert text(row["answer"]) == "Play well." and row["image"].shape == (500, 500, 3)  # with transparency in its file


def test_pictures_that_readers_would_decode_differently_are_kept_as_they_are_shown(data, tmp_path):
    folder = tmp_path / "data"
    make_tiny_data(folder, n_train=1, n_test=2)
    path = mat.load_split("mat_search", "train", folder)[0].images[0].path
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # on its side
    turned = np.zeros((8, 12, 4), np.uint8)
    turned[:, :6], turned[..., 3] = 200, 255
    PIL.Image.fromarray(turned).save(path, exif=exif)
    list(prepare(["mat_search"], str(folder), str(tmp_path / "out")))
    [row] = tfds.data_source("mat_search", split="train", data_dir=str(tmp_path / "out"))
    shown = mat.load_split("mat_search", "train", folder)[0].images[0].pixels
    assert row["image"].shape == (12, 8, 3) and np.array_equal(row["image"], shown)


def test_bad_records_are_left_out_counted_and_named(tmp_path, capsys):
    folder, out = tmp_path / "data", tmp_path / "out"
    make_tiny_data(folder, n_train=9, n_test=2)
    file = folder / "mat_coding" / "train.json"
    rows = json.loads(file.read_text())
    shown = [task.images[0].path for task in mat.load_split("mat_coding", "train", folder)]
    rows[0]["answers"], rows[1]["type"] = [], ["dim"]
    shown[2].unlink()
    shown[3].write_bytes(shown[3].read_bytes()[:-100])  # its header is whole
    shown[4].write_bytes(b"<html>")
    rows[5] = 7
    rows[7]["id"] = rows[6]["id"]
    file.write_text(json.dumps(rows))
    asked = [f"--data={folder}", f"--out={out}", "--sets=mat_coding"]
    assert cli.main(asked) == 0
    said = capsys.readouterr().out
    assert "mat_coding: prepared, 2 train, 2 test; tfds.data_source('mat_coding'" in said
    assert "mat_coding: 7 bad records of train are left out:" in said and "and 2 more, in " in said
    bad = json.loads((out / "mat_coding" / "1.0.0" / "metadata.json").read_text())["bad_records"]
    assert bad["test"] == [] and len(bad["train"]) == 7
    for row in (0, 1, 2, 3, 4):
        assert sum(f"item {rows[row]['id']} of {file}: " in sentence for sentence in bad["train"]) == 1
    assert any("item at place 5" in sentence for sentence in bad["train"])
    assert any("must differ" in sentence for sentence in bad["train"])
    kept = tfds.data_source("mat_coding", split="train", data_dir=str(out))
    assert [text(row["id"]) for row in kept] == [rows[6]["id"], rows[8]["id"]]
    assert cli.main(asked) == 0  # told again
    assert "mat_coding: was there, 2 train" in (said := capsys.readouterr().out) and "7 bad records of train" in said


def test_a_set_of_other_files_is_made_again(tmp_path):
    folder, out = tmp_path / "data", tmp_path / "out"
    folder.mkdir()
    for n, is_new in ((3, True), (3, False), (5, True)):
        write_qa(folder, "musique", "dev", n)
        [done] = prepare(["musique"], str(folder), str(out))
        assert (done.is_new, done.n_records) == (is_new, {"dev": n})
        assert len(tfds.data_source("multihop_qa/musique", split="dev", data_dir=str(out))) == n


def test_a_file_without_a_good_record_is_refused(tmp_path, capsys):
    (tmp_path / "musique").mkdir()
    (tmp_path / "musique" / "dev.jsonl").write_text('{"id": 1, "question": "q"}')
    assert cli.main([f"--data={tmp_path}", f"--out={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err
    assert "some record must be of the layout: got none in" in error and "golden_answers must be a text" in error
    assert not (tmp_path / "out" / "multihop_qa" / "musique" / "1.0.0").exists()


@pytest.mark.parametrize(
    "asked, sentence",
    [
        (["--out=x"], "--data must be given"),
        (["--data=.", "--out=x", "--sets=chess"], "sets must be among mat_coding, .*: got 'chess' "),
        (["--data=nowhere", "--out=x"], "the folder of what was downloaded must exist: got nowhere "),
        (["--data=.", "--out=x"], "must hold the files of some set: .*MAT-Coding.json.*huggingface.co/datasets/RUC"),
        (["--data=.", "--out=x", "--sets=musique"], "musique needs a folder with musique/dev.jsonl or .*huggingface"),
    ],
)
def test_bad_input_is_one_sentence_before_anything_is_written(asked, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(asked) == 2
    assert re.search(sentence, capsys.readouterr().err)
    assert os.listdir(tmp_path) == []
