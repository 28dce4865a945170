"""The loop of an evaluation, with a policy that answers from a table: what is asked, how often, what is written."""

import json

import pytest

from arft_jax.evaluate import runner, scoring
from arft_jax.evaluate.benchmarks import Benchmark
from arft_jax.evaluate.ledger import Ledger, faults_of, predictions_of
from arft_jax.evaluate.results import results_of
from arft_jax.io.trajectories import load_trajectories
from arft_jax.testing.ended import FAULT, TablePolicy, small_task

N = 6


@pytest.fixture
def benchmark():
    return Benchmark("mini_coding", tuple(small_task(number) for number in range(N)), "ab")


def play(benchmark, folder, table, numbers=range(N), attempts=3, **options):
    with Ledger(folder) as ledger:
        left = [number for number in numbers if number not in ledger.answered]
        runner.ask(table.policy, benchmark, benchmark.tasks, left, ledger, attempts=attempts, **options)


def test_answers_are_written_with_their_scores_in_the_order_of_their_ends(benchmark, tmp_path):
    table = TablePolicy({0: ["7 cards"], 1: ["8"]})
    play(benchmark, tmp_path, table)
    found = predictions_of(tmp_path)
    assert list(found) == [5, 4, 3, 2, 1, 0] and table.asked == [list(range(N))]
    # "7 cards" and "7": one word in common, F1 = 2 * 1 / (2 + 1)
    assert [(found[i]["f1"], found[i]["em"]) for i in (0, 1, 2)] == [
        (pytest.approx(2 / 3), 0.0),
        (0.0, 0.0),
        (1.0, 1.0),
    ]
    record = {key: value for key, value in found[1].items() if key != "seconds"}
    assert record == {
        "id": 2, "question_id": "t1", "benchmark": "mini_coding", "n_items": 6, "kind": "coding", "pred_answer": "8",
        "answers": ["7"], "split": "hard", "f1": 0.0, "em": 0.0, "status": "answered", "n_turns": 2, "n_tool_calls": 1,
        "tool_seconds": 0.25, "attempt": 1,
    }  # fmt: skip
    loaded = load_trajectories(tmp_path / "trajectories")
    assert [t.rewards["em"] for t in loaded] == [1.0] * 4 + [0.0] * 2
    assert loaded[0].info == {"benchmark": "mini_coding", "item": 5, "n_items": 6}


def test_each_answer_is_in_the_files_before_the_next_item_ends(benchmark, tmp_path):
    seen = []
    play(benchmark, tmp_path, TablePolicy(), on_end=lambda: seen.append(len(predictions_of(tmp_path))))
    assert seen == list(range(1, N + 1))


def test_what_was_stopped_goes_on_and_asks_nothing_twice(benchmark, tmp_path):
    class Killed(BaseException):
        pass

    def after_three():
        if len(predictions_of(tmp_path)) == 3:
            raise Killed

    table = TablePolicy()
    with pytest.raises(Killed):
        play(benchmark, tmp_path, table, on_end=after_three)
    play(benchmark, tmp_path, table)
    assert table.asked == [[0, 1, 2, 3, 4, 5], [0, 1, 2]]
    play(benchmark, tmp_path, table)
    assert len(table.asked) == 2  # nothing is left: nobody is asked
    play(benchmark, whole := tmp_path / "whole", TablePolicy())

    def without_time(folder):
        return [predictions_of(folder)[number] | {"seconds": 0} for number in range(N)]

    assert without_time(tmp_path) == without_time(whole)


def test_an_item_that_a_fault_ended_is_asked_again_alone_and_named_where_it_fails_each_time(benchmark, tmp_path):
    table = TablePolicy({1: [FAULT, FAULT, "7"], 2: [FAULT, "7"], 4: [FAULT]})
    lines = []
    play(benchmark, tmp_path, table, tell=lines.append)
    assert table.asked == [list(range(N)), [1, 2, 4], [1, 4]]
    found = predictions_of(tmp_path)
    assert {number: found[number]["attempt"] for number in (0, 1, 2)} == {0: 1, 1: 3, 2: 2} and 4 not in found
    assert faults_of(tmp_path)[4]["reason"] == "python: tool fault: no route" and faults_of(tmp_path)[4]["attempt"] == 3
    assert lines.count("mini_coding: 2 items ended by an infrastructure failure; attempt 3 of them") == 1
    results = results_of(benchmark, range(N), tmp_path, n_resamples=20)
    assert results["missing"] == [{"id": 5, "question_id": "t4", "reason": "python: tool fault: no route"}]
    assert (results["n_asked"], results["n_answered"], results["table"]["avg"]["n"]) == (6, 5, 5)
    play(benchmark, tmp_path, again := TablePolicy())  # the tools are well
    assert again.asked == [[4]] and results_of(benchmark, range(N), tmp_path, n_resamples=20)["missing"] == []


def test_one_attempt_is_one_attempt(benchmark, tmp_path):
    table = TablePolicy({4: [FAULT]})
    play(benchmark, tmp_path, table, attempts=1)
    assert table.asked == [list(range(N))]


@pytest.mark.parametrize("file", ["predictions", "trajectories"])
def test_the_score_command_reads_the_files_and_gives_the_same_figures(benchmark, tmp_path, file):
    table = TablePolicy({0: ["7 cards"], 1: ["8\u2028"], 3: ["\u7ea2\u8272 7"], 5: [FAULT]})
    play(benchmark, tmp_path, table, numbers=[0, 1, 3, 4, 5], attempts=1)
    path = tmp_path / f"{file}.jsonl"
    with open(path, "a") as lines:
        lines.write('{"id": 9, "cut short')
    scores = scoring.score_file(str(path), "mini_coding")
    results = results_of(benchmark, [0, 1, 3, 4, 5], tmp_path, n_resamples=4000)
    for split in ("simple", "hard", "avg"):
        for key in ("n", "f1", "em"):
            assert scores[split][key] == pytest.approx(results["table"][split][key], abs=0.01)
    assert (scores["n"], scores["n_items"], scores["missing"], scores["absent"]) == (4, 6, 0, 2)
    for other in ("mat_coding", "mat_search"):
        with pytest.raises(
            ValueError, match=f"predictions must be of {other}: got some of the benchmark 'mini_coding'"
        ):
            scoring.score_file(str(path), other)
    with pytest.raises(ValueError, match="benchmark must be one of mat_coding, .*bamboogle, or that of the file's"):
        scoring.score_file(str(path), "mini_search")


def test_the_progress_line_has_what_is_done_the_pace_the_figures_and_the_faults(benchmark, tmp_path, monkeypatch):
    clock = iter([0.0] + [2.0 * n for n in range(1, 20)])
    monkeypatch.setattr(runner.time, "monotonic", lambda: next(clock))
    lines = []
    play(benchmark, tmp_path, TablePolicy({5: [FAULT], 4: ["8"]}), attempts=1, tell=lines.append)
    # an item ends every 2 s, a line comes every 5 s at most: behind the third item, and at the last
    assert lines == [
        "mini_coding 2/6  F1 50.0  EM 50.0  infra 1  0.50 items/s  ETA 0:08",
        "mini_coding 5/6  F1 80.0  EM 80.0  infra 1  0.50 items/s  ETA 0:02",
    ]


def test_the_files_are_plain_json_lines(benchmark, tmp_path):
    play(benchmark, tmp_path, TablePolicy())
    for name in ("predictions", "trajectories"):
        assert len([json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().split("\n")[:-1]]) == N
