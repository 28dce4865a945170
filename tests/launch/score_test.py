"""The score command: its output and its refusals."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from arft_jax.evaluate import scoring

ROOT = pathlib.Path(__file__).resolve().parents[2]


def run(*flags):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, str(ROOT / "launch" / "score.py"), *flags], capture_output=True, text=True, env=env
    )


def write(tmp_path, records, name="predictions.json"):
    path = tmp_path / name
    path.write_text(records if isinstance(records, str) else json.dumps(records))
    return str(path)


def test_json_output_is_one_object(tmp_path):
    records = [
        {"id": 1, "gt": "cat", "pred_answer": "The cat"},
        {"id": 71, "answers": ["dog", "hound"], "pred_answer": None},
    ]
    done = run("--benchmark=mat_coding", f"--predictions={write(tmp_path, records)}", "--format=json")
    assert done.returncode == 0, done.stderr
    scores = json.loads(done.stdout)
    assert (scores["benchmark"], scores["n"], scores["n_items"], scores["missing"]) == ("mat_coding", 2, 200, 1)
    assert [scores[k]["em"] for k in ("simple", "hard", "avg")] == [100.0, 0.0, 50.0]
    assert scores["avg"]["ci95"] == {"f1": [0.0, 100.0], "em": [0.0, 100.0]}


def test_text_output_is_a_table(tmp_path):
    done = run("--benchmark=qa", f"--predictions={write(tmp_path, [{'gt': 'x', 'pred_answer': 'x'}])}")
    assert done.returncode == 0 and "avg" in done.stdout and "simple" not in done.stdout
    assert done.stdout.startswith("qa: n=1, missing=0\n")


def test_a_part_of_the_benchmark_is_said_to_be_one(tmp_path):
    scores = scoring.score_file(write(tmp_path, [{"gt": "x", "pred_answer": "x"}] * 100), "mat_coding")
    head = scoring.format_text(scores).splitlines()[0]
    assert head == "mat_coding: n=100, missing=0, absent=100 (a part: the benchmark has 200 items)"


@pytest.mark.parametrize(
    "ids, got", [(range(1, 161), "160 records"), ([1, 151], "the id 151"), ([0, 150], "the id 150")]
)
def test_predictions_of_another_benchmark_are_refused(tmp_path, ids, got):
    records = [{"gt": "x", "pred_answer": "x", "id": i} for i in ids]
    path = write(tmp_path, records)
    with pytest.raises(ValueError, match=f"mat_search has 150 items: got {got}"):
        scoring.score_file(path, "mat_search")
    assert scoring.score_file(path, "mat_coding")["n"] == len(records)


def test_the_trajectories_of_a_run_are_predictions(finished_run):
    _, directory = finished_run
    path = str(directory.path / "trajectories" / "after_mini_coding.jsonl")
    scores = scoring.score_file(path, "mat_coding")
    assert (scores["n"], scores["missing"], scores["avg"]["em"]) == (6, 0, 100.0)
    assert (scores["simple"]["n"], scores["hard"]["n"]) == (3, 3)
    with pytest.raises(ValueError, match="must be of the search agent for mat_search: got some of kind 'coding'"):
        scoring.score_file(path, "mat_search")


def test_the_command_does_not_import_jax():
    source = "import sys; from arft_jax.evaluate import scoring; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", source], cwd=ROOT).returncode == 0


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (["--benchmark=mat_chess", "--predictions=x"], "benchmark must be one of mat_coding, mat_search, qa"),
        (["--benchmark=qa", "--predictions=/nowhere.json"], "predictions must be a readable file"),
        (["--benchmark=qa"], "--predictions must be given"),
        (["--benchmark=qa", "--predictions=x", "--format=xml"], "--format must be json or text"),
        (["--benchmark=qa", "--predictons=x"], "Unknown command line flag 'predictons'; did you mean --predictions?"),
    ],
)
def test_bad_flags_are_one_sentence_and_status_2(flags, sentence):
    done = run(*flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "records, sentence",
    [
        ("{broken", "predictions must be JSON"),
        ("", "predictions must be JSON"),
        ("[]", "non-empty list"),
        ('"text"', "non-empty list"),
        ([1], "every record must be an object"),
        ([{"gt": "x"}], "records must carry 'pred_answer'"),
        ([{"pred_answer": "x"}], "must carry its answers"),
        ([{"pred_answer": "x", "gt": []}], "at least one answer"),
        ([{"pred_answer": {"a": 1}, "gt": "x"}], "'pred_answer' must be text: got dict at place 0"),
        ([{"pred_answer": "x", "gt": [True]}], "'gt' must be text: got bool"),
        ([{"pred_answer": "x", "gt": "x", "split": "medium"}], "'split' must be 'simple' or 'hard'"),
        ([{"pred_answer": "x", "gt": "x", "id": 3}] * 2, "ids must differ: got 3"),
    ],
)
def test_bad_records_are_one_sentence(tmp_path, records, sentence):
    with pytest.raises(ValueError, match="^[^\n]*$") as caught:
        scoring.score_file(write(tmp_path, records), "mat_coding")
    assert sentence in str(caught.value)


def test_bytes_that_are_no_text_are_one_sentence(tmp_path):
    path = tmp_path / "p.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="UTF-8"):
        scoring.score_file(str(path), "qa")


def test_json_lines_and_golden_answers_are_read(tmp_path):
    lines = '{"id": "q1", "golden_answers": ["x", "y"], "pred_answer": "y"}\n\n'
    lines += '{"golden_answers": [7], "pred_answer": 7}\n'
    scores = scoring.score_file(write(tmp_path, lines), "qa")
    assert (scores["n"], scores["avg"]["em"]) == (2, 100.0)


def test_one_line_is_json_lines_and_a_last_line_that_was_cut_short_is_left_out(tmp_path):
    line = '{"gt": "x", "pred_answer": "x", "id": 1}\n'
    for text in (line, line + '{"gt": "x", "pre', line + line.replace("1", "2")[:-1]):
        scores = scoring.score_file(write(tmp_path, text), "mat_coding")
        assert (scores["n"], scores["avg"]["em"]) == (text.count("}"), 100.0)
    with pytest.raises(ValueError, match="predictions must be JSON"):
        scoring.score_file(write(tmp_path, '{"gt": "x", "pre\n' + line), "mat_coding")


def test_a_users_own_keys_may_have_any_names(tmp_path):
    records = [{"gt": "x", "pred_answer": "x", "kind": "rotation", "benchmark": "mine"}]
    scores = scoring.score_file(write(tmp_path, records), "mat_search")
    assert (scores["n"], scores["absent"]) == (1, 149)


def test_a_split_in_the_file_goes_before_the_place(tmp_path):
    records = [{"id": i, "gt": "x", "pred_answer": "x", "split": s} for i, s in ((1, "hard"), (2, "simple"))]
    scores = scoring.score_file(write(tmp_path, records), "mat_search")
    assert (scores["simple"]["n"], scores["hard"]["n"]) == (1, 1)


def test_ids_from_0_and_from_1_and_none_give_the_same_halves(tmp_path):
    for ids in (range(80), range(1, 81), [None] * 80, list("a" * 80)):
        records = [{"gt": "x", "pred_answer": "x", "id": i} for i in ids]
        scores = scoring.score_file(write(tmp_path, records), "mat_search")
        assert (scores["simple"]["n"], scores["hard"]["n"]) == (75, 5)
