"""Whole questions out of recorded steps: what belongs together, what is left out, what is refused."""

import json

import numpy as np
import PIL.Image
import pytest

from arft_jax.build import data
from arft_jax.config import default_config
from arft_jax.data import mat, source
from arft_jax.data.images import Quarantine

# Rows as the published files have them, their texts shortened.
CODING = [
    dict(
        image_path="blur_1_proc.png", problem="<query>What is the number?</query>", context="",
        solution="<problem> {'blur', 'rotation90'} </problem>", type="pre_problem",
    ),
    dict(
        image_path="blur_1_proc.png", problem="<query>What is the number?</query>", context="so far",
        solution="<code>\n```python\nx\n```\n</code>", type="pre_code",
    ),
    dict(
        image_path="blur_1_ori.png", problem="<query>What is the number?</query>", context="so far",
        solution="<answer> 42 </answer>", type="pre_answer",
    ),
    dict(
        image_path="none_7_proc.png", problem="<query>What is the number?</query>", context="",
        solution="<problem> {'none'} </problem>", type="pre_problem",
    ),
    dict(
        image_path="none_7_proc.png", problem="<query>What is the number?</query>", context="so far",
        solution="<answer> 7 </answer>", type="pre_answer",
    ),
]  # fmt: skip
SEARCH = [
    dict(image_path="a.png", problem="Who built it?", solution="<search> tower </search>"),
    dict(
        image_path="a.png",
        problem="Who built it?\n<think>t</think><search> tower </search>\n<information>1</information>",
        solution="<answer> Ann Lee </answer>",
    ),
    dict(image_path="a.png", problem="Who built it? When?", solution="<search> tower year </search>"),
    dict(
        image_path="a.png",
        problem="Who built it? When?\n<think>t</think><search> tower year </search>\n<information>2</information>",
        solution="<answer> 1912 </answer>",
    ),
    dict(image_path="b.png", problem="What is it?", solution="<answer> a boat </answer>"),
]


@pytest.fixture
def folder(tmp_path):
    """A data directory as it is downloaded; rows are written by ``write``."""
    root = tmp_path / "MAT-Training"
    pixels = np.full((30, 40, 3), 90, np.uint8)
    for path in (mat.RECORDED["mat_coding"], mat.RECORDED["mat_search"]):
        images = root / f"{path.removesuffix('.json')}_images"
        images.mkdir(parents=True)
        for name in ("blur_1_proc", "blur_1_ori", "none_7_proc", "a", "b"):
            PIL.Image.fromarray(pixels + len(name)).save(images / f"{name}.png")
    return tmp_path


def write(folder, name, rows):
    (folder / "MAT-Training" / mat.RECORDED[name]).write_text(json.dumps(rows))


def read(folder, name, **options):
    return source.load_tasks(name, "train", folder, quarantine=Quarantine(), **options)


@pytest.mark.parametrize("order", [list, lambda rows: rows[::-1]])
def test_a_coding_question_has_the_first_rows_picture_and_the_last_rows_answer(folder, order):
    write(folder, "mat_coding", order(CODING))
    tasks = {task.id: task for task in read(folder, "mat_coding")}
    assert set(tasks) == {"blur_1", "none_7"}
    task = tasks["blur_1"]
    assert (task.question, task.answers, task.problems) == ("What is the number?", ("42",), ("blur", "rotation90"))
    assert task.images[0].pixels[0, 0, 0] == 90 + len("blur_1_proc") and task.kind == "coding" and not task.target
    assert tasks["none_7"].answers == ("7",) and tasks["none_7"].problems == ("none",)


@pytest.mark.parametrize("order", [list, lambda rows: rows[::-1]])
def test_a_search_question_is_the_longest_that_its_rows_begin_with(folder, order):
    write(folder, "mat_search", order(SEARCH))
    tasks = {task.question: task for task in read(folder, "mat_search")}
    assert {q: (t.answers[0], t.query, t.kind) for q, t in tasks.items()} == {
        "Who built it?": ("Ann Lee", "tower", "search"),
        "Who built it? When?": ("1912", "tower year", "search"),
        "What is it?": ("a boat", "", "search"),
    }


def test_what_has_no_last_row_is_left_out_and_said(folder):
    write(folder, "mat_coding", CODING[:2] + CODING[3:])
    with pytest.warns(UserWarning, match=r"1 of 2 questions are left out"):
        tasks = read(folder, "mat_coding")
    assert [task.id for task in tasks] == ["none_7"]
    write(folder, "mat_coding", CODING[:2])
    with pytest.raises(ValueError, match=r"has none of 1 whole \(config.data.dir\)"):
        read(folder, "mat_coding")


def test_so_many_questions_as_are_asked_for(folder):
    write(folder, "mat_coding", CODING)
    assert [task.id for task in read(folder, "mat_coding", n_train=1)] == ["blur_1"]


@pytest.mark.parametrize(
    "change, reason",
    [
        (dict(solution="<problem> {} </problem>"), r"row 0 of .*solution must hold <problem>"),
        (dict(solution="<problem> {'fog'} </problem>"), r"row 0 of .*'fog'"),
        (dict(problem=" "), r"row 0 of .*problem must be text: got ' '"),
        (dict(image_path="../blur_1_proc.png"), r"row 0 of .*\.\./blur_1_proc"),
        (dict(type="answer"), r"row 0 of .*type must be one of pre_problem, pre_code, pre_answer: got 'answer'"),
        (dict(type=None), r"row 0 of .*type must be text: got None"),
    ],
)
def test_a_row_of_another_layout_is_refused_by_name(folder, change, reason):
    away = {key: value for key, value in change.items() if key == "image_path"}
    write(folder, "mat_coding", [CODING[0] | change, *(row | away for row in CODING[1:3])])
    with pytest.raises(ValueError, match=reason):
        read(folder, "mat_coding")


def test_the_download_alone_is_enough_to_train_and_a_train_json_comes_first(folder):
    write(folder, "mat_coding", CODING)
    benchmark = folder / "MAT-Benchmark"
    (benchmark / "MAT-Coding-image").mkdir(parents=True)
    PIL.Image.new("RGB", (30, 40)).save(benchmark / "MAT-Coding-image" / "q.png")
    item = dict(
        id=1, question="Q?", answers=["a"], ori_image_path="q.png", processed_image_path="q.png", type=["dark"],
        split="hard",
    )  # fmt: skip
    (benchmark / "MAT-Coding.json").write_text(json.dumps([item]))
    config = default_config()
    config.data.update(tasks=("mat_coding",), dir=str(folder))
    assert data.missing_files(config) == []
    splits = data.read_own_tasks(config, Quarantine())["mat_coding"]
    assert [task.id for task in splits["train"]] == ["blur_1", "none_7"]
    assert [task.id for task in splits["test"]] == ["1"]
    own = folder / "mat_coding"
    own.mkdir()
    PIL.Image.new("RGB", (30, 40)).save(own / "q.png")
    (own / "train.json").write_text(json.dumps([item | {"id": 5}]))
    assert [task.id for task in read(folder, "mat_coding")] == ["5"]
