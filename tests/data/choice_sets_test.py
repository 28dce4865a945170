"""V*, HR-Bench and MMSearch in their public layouts: what becomes of an item, and which files are refused."""

import base64
import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from arft_jax.data import choice_sets, mmsearch, unpacked
from arft_jax.data.images import encode_png
from arft_jax.trajectory import Image

TEXT = "What is the glove made of?\n(A) rubber\n(B) cotton\nAnswer with the option's letter from the given choices."
VSTAR = dict(image="direct_attributes/a.png", text=TEXT, category="direct_attributes", label="B", question_id=3)
COLUMNS = ["index", "question", "answer", "category", "A", "B", "C", "D", "cycle_category", "image"]


def png(value):
    return encode_png(Image(np.full((8, 9, 3), value, np.uint8)))


def write_vstar(folder, *lines):
    (folder / "vstar_bench" / "direct_attributes").mkdir(parents=True)
    (folder / "vstar_bench" / "direct_attributes" / "a.png").write_bytes(png(7))
    (folder / "vstar_bench" / "test_questions.jsonl").write_text("\n".join(map(json.dumps, lines)))


def hr_rows(n_questions=2, **changes):
    """Each question four times, its options in turn; the right one is red."""
    rows = []
    for question in range(n_questions):
        for cycle in range(4):
            options = ["red", "blue", "green", "3"]
            options = options[cycle:] + options[:cycle]
            row = dict(zip("ABCD", options, strict=True), index=4 * question + cycle, question=f"Colour {question}?")
            row |= dict(answer="ABCD"[options.index("red")], category=("single", "cross")[question % 2])
            rows.append(row | dict(cycle_category=cycle, image=base64.b64encode(png(question)).decode()) | changes)
    return rows


def write_table(folder, rows, suffix="parquet", size="4k"):
    (folder / "HR-Bench").mkdir(parents=True, exist_ok=True)
    path = folder / "HR-Bench" / f"hr_bench_{size}.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t")
            writer.writeheader()
            writer.writerows(rows)
    return path


def test_a_line_of_vstar_is_a_choice_with_its_options(tmp_path):
    write_vstar(tmp_path, VSTAR, VSTAR | dict(question_id=4, label="A"))
    first, second = choice_sets.load_vstar(tmp_path)
    assert (first.id, first.kind, first.question, first.answers) == ("3", "coding", TEXT, ("B",))
    assert (first.choices, first.extra, first.split) == (("rubber", "cotton"), {"category": "direct_attributes"}, "")
    assert first.images[0].pixels[0, 0, 0] == 7 and second.answers == ("A",)


BAD_VSTAR = {
    "no options": (dict(text="What?"), "text must hold options as lines"),
    "options from B on": (dict(text="What?\n(B) x\n(C) y"), "text must hold options as lines"),
    "another label": (dict(label="C"), "label must be a letter of A, B: got 'C'"),
    "no picture": (dict(image="direct_attributes/b.png"), "image file must exist: got .*b.png"),
    "a path out": (dict(image="../../a.png"), "an image path must stay in its folder"),
    "another layout": (dict(question_id=None), "id must be text or an integer"),
}


@pytest.mark.parametrize("case", BAD_VSTAR)
def test_a_line_of_another_layout_is_refused_by_its_number(tmp_path, case):
    changes, sentence = BAD_VSTAR[case]
    write_vstar(tmp_path, VSTAR, VSTAR | dict(question_id=4) | changes)
    with pytest.raises(ValueError, match=f"line 2 of .*test_questions.jsonl: {sentence}"):
        choice_sets.load_vstar(tmp_path)


@pytest.mark.parametrize("suffix", ["parquet", "tsv"])
def test_rows_of_hr_bench_are_choices_in_groups_of_one_question(tmp_path, suffix):
    write_table(tmp_path, hr_rows(), suffix)
    tasks = choice_sets.load_hr("4k", tmp_path)
    assert [task.id for task in tasks] == [str(i) for i in range(8)]
    assert [task.extra["group"] for task in tasks] == ["0"] * 4 + ["1"] * 4
    assert [task.extra["category"] for task in tasks] == ["single"] * 4 + ["cross"] * 4
    assert [task.answers for task in tasks] == [("A",), ("D",), ("C",), ("B",)] * 2
    assert tasks[1].choices == ("blue", "green", "3", "red")
    assert tasks[1].question.splitlines()[:3] == ["Colour 0?", "(A) blue", "(B) green"]
    assert tasks[5].images[0].pixels[0, 0, 0] == 1 and tasks[4].images[0] is tasks[7].images[0]


def test_a_table_is_unpacked_once_and_again_when_it_is_another(tmp_path, monkeypatch):
    path = write_table(tmp_path, hr_rows())
    choice_sets.load_hr("4k", tmp_path)
    folder = path.with_name("hr_bench_4k.parquet.unpacked")
    assert len(list(folder.iterdir())) == 2 + 2  # rows, source; a picture of each question
    before = (folder / unpacked.ROWS).stat().st_ino
    choice_sets.load_hr("4k", tmp_path)
    assert (folder / unpacked.ROWS).stat().st_ino == before
    write_table(tmp_path, hr_rows(3))
    assert len(choice_sets.load_hr("4k", tmp_path)) == 12
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name, folder.name]


def test_a_row_may_name_another_rows_picture_by_its_index(tmp_path):
    rows = hr_rows(1)
    for row in rows[1:]:
        row["image"] = "0"
    write_table(tmp_path, rows, "tsv")
    tasks = choice_sets.load_hr("4k", tmp_path)
    assert {task.extra["group"] for task in tasks} == {"0"} and tasks[3].images[0].size == (8, 9)


BAD_HR = {
    "another answer": (dict(answer="E"), "row 0 of .*: answer must be a letter of A, B, C, D: got 'E'"),
    "no picture": (dict(image=None), "row 0 of .*: image must be a picture: got None"),
    "no base64": (dict(image="?" * 80), "row 0 of .*: image must be base64"),
    "no image file": (dict(image=base64.b64encode(b"<html>" * 20).decode()), "row 0 of .*: "),
    "an unknown row": (dict(image="77"), "row 0 of .*: image must be a picture, or the index of an earlier row"),
    "a hole among options": (dict(B=None), "row 0 of .*: A, B, C, D must hold options from A on"),
    "an index twice": (dict(index=1), "row 1 of .*: id must differ from every other: got '1'"),
}


@pytest.mark.parametrize("case", BAD_HR)
def test_a_row_of_another_layout_is_refused_by_its_number(tmp_path, case):
    changes, sentence = BAD_HR[case]
    write_table(tmp_path, hr_rows(1, **changes))
    with pytest.raises(ValueError, match=sentence):
        choice_sets.load_hr("4k", tmp_path)


@pytest.mark.parametrize("suffix", ["parquet", "tsv"])
def test_a_table_of_another_layout_is_one_sentence_and_leaves_nothing(tmp_path, suffix):
    path = write_table(tmp_path, [dict(question="q", answer="A", image="x")], suffix, "8k")
    with pytest.raises(
        ValueError, match="must have the columns index, question, .*missing index, category, A, B, C, D, "
    ):
        choice_sets.load_hr("8k", tmp_path)
    path.write_bytes(b"\xff\xfe not a table")
    with pytest.raises(ValueError, match=f"{path.name} must be a readable"):
        choice_sets.load_hr("8k", tmp_path)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_mmsearch_has_pictures_or_none_and_every_accepted_answer(tmp_path):
    (tmp_path / "MMSearch").mkdir()
    row = dict(sample_id="s1", query="Who won?", query_image={"bytes": png(5), "path": None}, area="news", subfield="x")
    row |= dict(gt_requery="who won", gt_answer="Ann", alternative_gt_answers=["Ann B."])
    rows = [row, row | dict(sample_id="s2", query_image=None, area="knowledge", alternative_gt_answers=[])]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "MMSearch" / "end2end.parquet")
    first, second = mmsearch.load(tmp_path)
    assert (first.kind, first.question, first.answers, first.query) == (
        "search",
        "Who won?",
        ("Ann", "Ann B."),
        "who won",
    )
    assert first.images[0].pixels[0, 0, 0] == 5 and first.extra == {"category": "news"} and first.choices == ()
    assert second.images == () and second.answers == ("Ann",)
    rows[1]["gt_answer"] = " "
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "MMSearch" / "end2end.parquet")
    with pytest.raises(ValueError, match="row 1 of .*gt_answer, alternative_gt_answers must hold no blank text"):
        mmsearch.load(tmp_path)
