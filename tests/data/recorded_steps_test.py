"""MAT-Training's own files as tasks: what becomes of a row, where it is looked for, and which rows are refused."""

import json

import numpy as np
import pytest

from arft_jax.commands.tiny_data import make_tiny_data
from arft_jax.commands.tiny_steps import write_tiny_steps
from arft_jax.config import STEP_TASKS
from arft_jax.data import recorded_steps, source
from arft_jax.data.images import encode_png
from arft_jax.rewards import recorded
from arft_jax.tools.bundled import paper_syntax
from arft_jax.trajectory import Image

CODING = dict(
    image_path="a_proc.png", problem="What number?", context="<think> x </think>\n<problem> {'dark'} </problem>",
    solution="<code>\n```python\ny = 1\n```\n</code>", gt="not read", type="pre_code",
)  # fmt: skip
SEARCH = dict(image_path="a.png", problem="Whose emblem?\n<think> so far", solution="<search> Ann emblem </search>")


def write(folder, name, row, *, beside=False, **changes):
    """The data directory ``folder`` with one row of the changes (None: without the key) and its image."""
    path = folder / "mat_training" / recorded_steps.FILES[name]
    images = path.parent if beside else path.parent / f"{path.stem}_images"
    images.mkdir(parents=True, exist_ok=True)
    (images / row["image_path"]).write_bytes(encode_png(Image(np.full((8, 9, 3), 7, np.uint8))))
    row = {key: value for key, value in (row | changes).items() if value is not None}
    path.write_text(json.dumps([row]))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("steps") / "data"
    make_tiny_data(path, seed=3, n_train=1, n_test=2)
    write_tiny_steps(path, seed=3, n_items=6)
    return path


def load(folder, name="mat_training_coding"):
    [task] = recorded_steps.load_split(name, "train", folder)
    return task


def test_the_chain_so_far_follows_the_question_where_the_row_is_not_the_first_step(tmp_path):
    task = load(write(tmp_path, "mat_training_coding", CODING))
    assert task.question == CODING["problem"] + "\n" + CODING["context"]
    assert (task.kind, task.target, task.answers) == ("coding", CODING["solution"], ())
    assert task.id == "rft_agent_code_1_2k-0" and task.images[0].name == "image_1" and task.images[0].size == (8, 9)
    first = dict(type="pre_problem", solution="<problem> {'dark'} </problem>")
    for context in (CODING["context"], "", None):  # whatever stands there, and where nothing does
        assert load(write(tmp_path, "mat_training_coding", CODING, **first, context=context)).question == "What number?"


def test_a_search_row_is_its_problem_and_its_solution(tmp_path):
    task = load(write(tmp_path, "mat_training_search", SEARCH), "mat_training_search")
    assert (task.question, task.target, task.kind) == (SEARCH["problem"], SEARCH["solution"], "search")


def test_images_lie_in_a_folder_of_the_files_name_or_beside_it_and_the_published_folder_name_will_do(tmp_path):
    task = load(write(tmp_path, "mat_training_coding", CODING, beside=True))
    assert task.images[0].pixels[0, 0, 0] == 7
    (tmp_path / "mat_training").rename(tmp_path / "MAT-Training")
    assert load(tmp_path).question == task.question


REFUSALS = {
    "a missing key": (dict(problem=None), "a row must have image_path, problem, solution, type: got"),
    "another type": (dict(type="pre_crop"), "type must be one of pre_problem, pre_code, pre_answer: got 'pre_crop'"),
    "no context": (dict(context=None), "problem, .* context must be text: got None"),
    "an empty solution": (dict(solution=" "), "problem, solution .* must be text: got ' '"),
    "a step of the other agent": (dict(solution="<search> x </search>"), "a recorded coding step must hold one of"),
    "a path out of the folder": (dict(image_path="../a_proc.png"), "an image path must stay in its folder"),
    "an absolute path": (dict(image_path="/etc/hostname"), "an image path must stay in its folder"),
    "no image": (dict(image_path="gone.png"), "image file must exist"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_row_that_is_not_of_the_layout_is_named(tmp_path, case):
    changes, sentence = REFUSALS[case]
    write(tmp_path, "mat_training_coding", CODING, **changes)
    with pytest.raises(ValueError, match=f"row 0 of .*rft_agent_code_1_2k.json: {sentence}"):
        load(tmp_path)


def test_files_that_hold_no_rows_are_refused(tmp_path):
    path = write(tmp_path, "mat_training_coding", CODING) / "mat_training" / "rft_agent_code_1_2k.json"
    for text, sentence in {
        "[": "readable JSON",
        "{}": "list of rows: got dict",
        "[]": "list of rows",
        "[7]": "row 0",
    }.items():
        path.write_text(text)
        with pytest.raises(ValueError, match=sentence):
            load(tmp_path)


def test_what_is_missing_is_one_sentence_with_the_key(tmp_path, folder):
    head = "data.dir must be a directory with mat_training/rft_agent_code_1_2k.json, mat_coding/test.json and their "
    coding, search = ["mat_training_coding"], ["mat_training_search"]
    assert recorded_steps.missing_files(coding, "") == [f"{head}images: got none (config.data.dir)"]
    write(tmp_path, "mat_training_coding", CODING)
    got = f"{tmp_path} has no mat_coding/test.json (config.data.dir)"
    assert recorded_steps.missing_files(coding, str(tmp_path)) == [f"{head}images: {got}"]
    [sentence] = recorded_steps.missing_files(search, str(tmp_path))
    assert "has no mat_training/rft_agent_search_20.json, mat_search/test.json, mat_search/corpus.jsonl (" in sentence
    assert recorded_steps.missing_files(STEP_TASKS, str(folder)) == []
    assert recorded_steps.missing_files(["mini_coding", "mat_search"], "") == []


def test_the_tiny_files_are_of_the_layout_and_their_own_steps_earn_all_there_is(folder):
    splits = source.load_splits(STEP_TASKS, folder, seed=0, n_train=100)
    assert recorded_steps.NAMES == STEP_TASKS
    for name, kind in recorded_steps.KINDS.items():
        tasks = splits[name]["train"]
        steps = [recorded.step_of(kind, task.target) for task in tasks]
        assert set(steps) == set(recorded.STEPS[kind]) and steps.count("answer") == 6
        for task, step in zip(tasks, steps, strict=True):
            whole = f"<think> so </think>\n{task.target}"
            assert paper_syntax().is_well_formed(whole) and recorded.format_score(kind, task.target, whole) == 1.0
            want = recorded.CODE_REWARD if step == "code" else 1.0
            assert recorded.accuracy_score(kind, task.target, whole) == want
        assert [task.target for task in splits[name]["test"]] == ["", ""]  # whole questions
    assert len(source.load_tasks("mat_training_coding", "train", folder, n_train=4)) == 4


def test_a_chain_so_far_is_what_the_steps_before_it_wrote(folder):
    rows = json.loads((folder / "mat_training" / "rft_agent_code_1_2k.json").read_text())
    for before, row in zip(rows, rows[1:], strict=False):
        if row["type"] != "pre_problem":
            assert row["problem"] == before["problem"] and row["context"].startswith(before["context"])
            assert before["gt"] in row["context"] and before["gt"].endswith(before["solution"])
    answers = [row for row in rows if row["type"] == "pre_answer"]
    assert all(row["image_path"].endswith("_ori.png") for row in answers) and rows[0]["image_path"].endswith(
        "_proc.png"
    )
    rows = json.loads((folder / "mat_training" / "rft_agent_search_20.json").read_text())
    later = [(a, b) for a, b in zip(rows, rows[1:], strict=False) if "<information>" in b["problem"]]
    assert len(later) == len(rows) - 6 and all(a["solution"] in b["problem"] for a, b in later)


def test_the_tiny_files_follow_from_their_seed_and_replace_nothing(folder, tmp_path):
    for name, seed in (("b", 3), ("c", 4)):
        write_tiny_steps(tmp_path / name, seed=seed, n_items=6)
    for file in recorded_steps.FILES.values():
        first, same, other = (
            (at / "mat_training" / file).read_bytes() for at in (folder, tmp_path / "b", tmp_path / "c")
        )
        assert first == same != other
    with pytest.raises(FileExistsError):
        write_tiny_steps(tmp_path / "b")
    with pytest.raises(ValueError, match="n_items must be at least 1: got 0"):
        write_tiny_steps(tmp_path / "d", n_items=0)
