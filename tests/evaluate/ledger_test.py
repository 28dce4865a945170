"""The files of an evaluation: written as answers come, whole again after a kill, and of one policy."""

import dataclasses
import json

import pytest

from arft_jax.evaluate import ledger as files
from arft_jax.evaluate.evaluator import scored
from arft_jax.io.trajectories import load_trajectories
from arft_jax.testing.ended import ended, small_task


def add(ledger, number, answer="7"):
    trajectory = dataclasses.replace(scored(ended(small_task(number), answer)), info={"item": number})
    ledger.add(number, {"pred_answer": answer, "f1": 1.0, "em": 1.0, "split": "simple"}, trajectory)


def lines(folder, name):
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def test_an_answer_is_in_the_files_as_soon_as_it_is_added(tmp_path):
    with files.Ledger(tmp_path) as ledger:
        add(ledger, 4)
        assert [record["id"] for record in lines(tmp_path, "predictions")] == [5]  # counted from 1
        [trajectory] = load_trajectories(tmp_path / "trajectories")
        assert trajectory.task.id == "t4" and trajectory.rewards == {"f1": 1.0, "em": 1.0}
        ledger.add_fault(2, {"reason": "search: no route"})
        assert files.faults_of(tmp_path) == {2: {"id": 3, "reason": "search: no route"}}
    assert set(files.predictions_of(tmp_path)) == {4}


@pytest.mark.parametrize("cut", [1, 20])
def test_what_a_kill_cut_short_is_dropped_and_its_item_counts_as_not_answered(tmp_path, cut):
    with files.Ledger(tmp_path) as ledger:
        for number in (3, 1, 2):
            add(ledger, number)
    path = tmp_path / "predictions.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])  # without its end a line is not whole, be it JSON or not
    assert set(files.predictions_of(tmp_path)) == {3, 1}
    files.join_parts(tmp_path)
    assert [record["id"] for record in lines(tmp_path, "predictions")] == [4, 2]
    assert [t.info["item"] for t in load_trajectories(tmp_path / "trajectories")] == [3, 1]
    with files.Ledger(tmp_path) as ledger:
        assert ledger.answered == {3, 1}
        add(ledger, 2)
    assert [t.info["item"] for t in load_trajectories(tmp_path / "trajectories")] == [3, 1, 2]


def test_whole_files_are_left_as_they_are(tmp_path):
    with files.Ledger(tmp_path) as ledger:
        add(ledger, 0)
    before = {path.name: (path.stat().st_ino, path.read_bytes()) for path in tmp_path.glob("*.jsonl")}
    files.join_parts(tmp_path)
    assert {path.name: (path.stat().st_ino, path.read_bytes()) for path in tmp_path.glob("*.jsonl")} == before


def test_a_damaged_line_that_is_not_the_last_is_named(tmp_path):
    (tmp_path / "predictions.jsonl").write_text('{"id": 1}\n{"id": \n{"id": 3}\n')
    with pytest.raises(ValueError, match="must hold one JSON object a line: line 2 is none"):
        files.predictions_of(tmp_path)


def test_files_of_several_processes_become_one_and_no_item_stands_twice(tmp_path):
    with files.Ledger(tmp_path, 0) as first, files.Ledger(tmp_path, 1) as second:
        for number in (0, 2):
            add(first, number)
        for number in (1, 2):
            add(second, number, "8")
        second.add_fault(3, {"reason": "x"})
    assert sorted(path.name for path in tmp_path.glob("predictions*")) == ["predictions.0.jsonl", "predictions.1.jsonl"]
    assert set(files.predictions_of(tmp_path)) == {0, 1, 2}
    files.join_parts(tmp_path)
    assert [record["id"] for record in lines(tmp_path, "predictions")] == [1, 3, 2]
    assert [t.info["item"] for t in load_trajectories(tmp_path / "trajectories")] == [0, 2, 1]
    assert files.predictions_of(tmp_path)[2]["pred_answer"] == "7" and set(files.faults_of(tmp_path)) == {3}
    assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == [
        "faults.jsonl", "predictions.jsonl", "trajectories.jsonl",
    ]  # fmt: skip


SAME = {"policy": {"step": 6}, "tools": "on", "image": "shown", "config": {"seed": 0, "data.tasks": ("a",)}}
ITEMS = {"mat_coding": {"n_items": 200, "sha256": "ab"}}


def change(**values):
    return SAME | values


@pytest.mark.parametrize(
    "same, items, difference",
    [
        (change(policy={"step": 8}), ITEMS, "policy.step=6 there and 8 here"),
        (change(tools="off"), ITEMS, "tools='on' there and 'off' here"),
        (change(image="blank"), ITEMS, "image='shown' there and 'blank' here"),
        (change(config={"seed": 1, "data.tasks": ("a",)}), ITEMS, "config.seed=0 there and 1 here"),
        (SAME, {"mat_coding": {"n_items": 200, "sha256": "cd"}}, "mat_coding.sha256='ab' there and 'cd' here"),
    ],
)
def test_another_policy_config_toolbox_or_benchmark_is_refused_by_its_difference(tmp_path, same, items, difference):
    out = tmp_path / "out"
    files.open_record(out, SAME, {"system": "x"}, ITEMS)
    with pytest.raises(ValueError, match=f"{difference}; ask as before or choose another folder"):
        files.open_record(out, same, {"system": "x"}, items)


def test_the_record_grows_by_benchmarks_and_tells_what_it_was_made_with(tmp_path):
    files.open_record(tmp_path / "out", SAME, {"system": "old name"}, ITEMS)
    more = {"mat_search": {"n_items": 150, "sha256": "ef"}}
    files.open_record(tmp_path / "out", SAME, {"system": "new name"}, more)
    record = files.read_record(tmp_path / "out", "--out")
    assert record["benchmarks"] == ITEMS | more and record["system"] == "new name"
    assert len(record["versions"]) == 1 and {"commit", "jax"} <= record["versions"][0].keys()


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match="must be new, empty or hold an evaluation"):
        files.open_record(tmp_path, SAME, {}, ITEMS)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ValueError, match=r"must hold an evaluation: .*run.json is not its record .*\(--compare\)"):
        files.read_record(tmp_path, "--compare")
