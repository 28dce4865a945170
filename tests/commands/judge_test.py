"""A judge by the commands: grades beside F1 and EM in an evaluation, a part of the reward in training, bad input."""

import json
import re

import numpy as np
import PIL.Image
import pytest

pytest.importorskip("openai", reason="needs the openai package, of the [openai] extra")

from arft_jax.commands.cli import evaluate as cli
from arft_jax.commands.cli import train
from arft_jax.testing.chat_server import ChatServer, openai_error, question_of

# ml_collections loads a config file by a way that Python 3.12 no longer has.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def is_judge(body):
    return body["model"] == "judge"


def answer(body):
    """As a policy: the number of the question in words of its own. As a judge: right from 4 on, half at 3."""
    if not is_judge(body):
        return "it is number " + re.search(r"What is (\d+)", question_of(body))[1]
    number = int(re.search(r"Given answer: it is number (\d+)", question_of(body))[1])
    return f"score: {1 if number > 3 else 0.5 if number == 3 else 0}"


@pytest.fixture
def server():
    with ChatServer(answer, models=("gpt-4o", "judge"), slow_s=5.0) as server:
        yield server


@pytest.fixture
def flags(server, tmp_path):
    PIL.Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(tmp_path / "photo.png")
    item = dict(kind="general", images=["photo.png"], answers="x")
    lines = [item | {"id": "train", "split": "train", "question": "Which?"}]
    lines += [item | {"id": f"i{i}", "question": f"What is {i}?", "answers": str(i), "split": "test"} for i in range(6)]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return [
        "--config=tiny_cpu:smoke", "--policy=openai", "--benchmark=items", f"--out={tmp_path / 'out'}",
        "--tools=off", "--config.openai.prompt=plain", "--config.warm_start.steps=0",
        f"--config.data.tasks=('jsonl:{tmp_path / 'items.jsonl'}',)",
        f"--config.openai.base_url={server.url}", "--config.openai.model=gpt-4o", "--config.eval.bootstrap=50",
        f"--config.rewards.judge.base_url={server.url}", "--config.rewards.judge.model=judge",
        "--config.rewards.judge.n_tries=1", "--judge",
    ]  # fmt: skip


def judged(tmp_path):
    return json.loads((tmp_path / "out" / "results.json").read_text())["benchmarks"]["items"]["judge"]


def asked(server):
    return [body for body in server.asked if is_judge(body)]


def test_answers_are_graded_once_and_the_grade_stands_below_the_table(server, flags, tmp_path, capsys):
    assert cli.main(flags) == 0
    found = judged(tmp_path)
    assert found["scores"] == {"1": 0.0, "2": 0.0, "3": 0.0, "4": 0.5, "5": 1.0, "6": 1.0}
    assert (found["n"], found["mean"], found["missing"]) == (6, pytest.approx(100 * 2.5 / 6), [])
    assert found["ci95"][0] < found["mean"] < found["ci95"][1]
    assert "items: graded by judge: 41.67 [" in capsys.readouterr().out
    assert "items: graded by judge: 41.67 [" in (tmp_path / "out" / "table.md").read_text()
    assert {question_of(body).split("Question: ")[1].splitlines()[0] for body in asked(server)} == {
        f"What is {i}?" for i in range(6)
    }
    n = len(server.asked)
    assert cli.main(flags) == 0 and judged(tmp_path) == found and len(server.asked) == n
    assert cli.main([flag for flag in flags if flag != "--judge"]) == 0  # and without it the folder goes on as well
    assert len(server.asked) == n


def test_an_answer_without_a_grade_is_named_counts_nowhere_and_is_asked_about_again(server, flags, tmp_path, capsys):
    def fail(body):
        if is_judge(body) and "number 4" in question_of(body):
            raise openai_error(400, "This is declined.", "content_filter")
        return answer(body)

    server.answer = fail
    assert cli.main(flags) == 1
    found = judged(tmp_path)
    assert (found["n"], found["mean"]) == (5, pytest.approx(100 * 1.5 / 5))
    assert [(item["id"], item["question_id"]) for item in found["missing"]] == [(5, "i4")]
    assert "1 items have no grade, the same command asks again: i4: the judge gave no score" in capsys.readouterr().out
    n, server.answer = len(asked(server)), answer
    assert cli.main(flags) == 0 and judged(tmp_path)["n"] == 6 and len(asked(server)) == n + 1


def test_a_rubric_of_ones_own_is_used_and_is_another_judge(server, flags, tmp_path):
    assert cli.main(flags) == 0
    (tmp_path / "rubric.txt").write_text("Mark this.\nGiven answer: {answer}\n")
    assert cli.main([*flags, f"--config.rewards.judge.rubric=file:{tmp_path / 'rubric.txt'}"]) == 0
    assert sorted(question_of(body) for body in asked(server)[6:]) == [
        f"Mark this.\nGiven answer: it is number {i}" for i in range(6)
    ]


@pytest.mark.parametrize(
    "more, reason",
    [
        ("--config.rewards.judge.model=", r"a model must be named: got none .config.rewards.judge.model"),
        ("--config.rewards.judge.model=other", r"got 'other', .* has gpt-4o, judge \(config.rewards.judge.model\)"),
        ("--config.rewards.judge.base_url=http://127.0.0.1:9/v1", r"a server must answer: .*rewards.judge.base_url"),
        ("--config.rewards.judge.rubric=Is it good?", r"rubric must be .*got 'Is it good\?' \(config.rewards.judge.ru"),
        ("--config.rewards.judge.rubric=file:/no/such", r"a rubric must be a readable file: got /no/such"),
        ("--config.rewards.judge.concurrency=0", r"concurrency must be at least 1: got 0"),
        (
            "--config.rewards.judge.budget_dollars=1",
            r"prices must have that of .*config.rewards.judge.prices",
        ),
    ],
)
def test_bad_input_is_one_sentence_before_any_item_is_asked(server, flags, more, reason, capsys):
    assert cli.main([*flags, more]) == 2
    said = capsys.readouterr().err
    assert re.search(reason, said) and "Traceback" not in said
    assert server.asked == []


def train_flags(server, tmp_path, *more):
    return [
        "--config=tiny_cpu:smoke", f"--config.workdir={tmp_path / 'run'}", "--config.rewards.judge.weight=0.5",
        f"--config.rewards.judge.base_url={server.url}", *more,
    ]  # fmt: skip


def test_in_training_a_judge_that_is_not_there_is_said_before_any_compute(server, tmp_path, capsys):
    assert train.main(train_flags(server, tmp_path, "--config.rewards.judge.model=other")) == 2
    assert "config.rewards.judge.model" in capsys.readouterr().err and not (tmp_path / "run").exists()
