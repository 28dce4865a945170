"""The judge behind a server: each prompt once, scores kept between sessions, faults that are no score."""

import json
import time

import pytest

pytest.importorskip("openai", reason="needs the openai package, of the [openai] extra")

from arft_jax.remote.client import Server
from arft_jax.remote.costs import Meter
from arft_jax.remote.judge import RemoteJudge
from arft_jax.remote.log import read_log
from arft_jax.rewards.judge import JudgeFailure
from arft_jax.testing.chat_server import ChatServer, openai_error


@pytest.fixture
def server():
    with ChatServer(lambda body: "It fits.\nscore: 0.5", slow_s=5.0) as server:
        yield server


@pytest.fixture
def make(server, tmp_path):
    def make(meter=None, concurrency=16, process=None, **options):
        usual = dict(base_url=server.url, model="gpt-4o", timeout_s=20.0, n_tries=2, backoff_s=0.001)
        told = Server(**usual | options, keys="config.rewards.judge")
        judge = RemoteJudge(told, meter or Meter({}), tmp_path / "judge", concurrency, process)
        made.append(judge)
        return judge

    made = []
    make.folder = tmp_path / "judge"
    yield make
    for judge in made:
        judge.close()


def test_a_prompt_is_asked_once_however_often_it_comes(server, make):
    judge = make()
    for _ in range(3):
        judge.begin("one")
    assert [judge.score(prompt) for prompt in ("one", "one", "two", "one")] == [0.5] * 4
    assert sorted(body["messages"][0]["content"] for body in server.asked) == ["one", "two"]
    assert make().score("one") == 0.5 and len(server.asked) == 2  # a later session reads the file


def test_another_model_or_another_field_is_another_judge(server, make):
    make().score("one")
    make(model="o3", fields={"seed": 1}).score("one")
    make(fields={"seed": 2}).score("one")
    assert len(server.asked) == 3


def test_sessions_of_several_processes_share_what_was_scored(server, make):
    make(process=0).score("one")
    make(process=1).score("two")
    assert {path.name for path in make.folder.glob("scores*")} == {"scores.0.jsonl", "scores.1.jsonl"}
    judge = make()
    assert judge.score("one") == judge.score("two") == 0.5 and len(server.asked) == 2


def test_a_file_of_scores_that_was_cut_short_or_spoiled_costs_only_those_lines(server, make):
    judge = make()
    judge.score("one")
    judge.score("two")
    path = make.folder / "scores.jsonl"
    first, second = path.read_text().splitlines()
    spoiled = json.loads(second) | {"score": 7}
    path.write_text(f"{first}\n{json.dumps(spoiled)}\nno json\n[1]\n" + first[:20])
    judge = make()
    assert judge.score("one") == 0.5 and len(server.asked) == 2
    assert judge.score("two") == 0.5 and len(server.asked) == 3
    assert make().score("two") == 0.5 and len(server.asked) == 3


@pytest.mark.parametrize(
    "reply, reason",
    [
        ("I like it.", r"a line 'score: NUMBER': got a reply that ends with 'I like it.'"),
        ("score: 2", r"a score from 0 to 1: got '2'"),
        ("score: nan", r"a score from 0 to 1: got 'nan'"),
    ],
)
def test_a_reply_without_a_score_is_asked_for_once_more_and_is_then_a_failure(server, make, reply, reason):
    server.answer = lambda body: reply
    judge = make()
    with pytest.raises(JudgeFailure, match=reason):
        judge.score("one")
    assert len(server.asked) == 2
    server.answer = lambda body: "score: 1"
    assert judge.score("one") == 1.0  # the failure was not kept


def test_a_server_that_does_not_answer_is_a_failure(server, make):
    server.faults = lambda number: "500"
    with pytest.raises(JudgeFailure, match=r"no score: status 500: .* \(2 tries\)"):
        make().score("one")


def test_beyond_the_budget_nothing_is_sent(server, make):
    meter = Meter({"gpt-4o": (1e6, 1e6)}, budget_dollars=1.0, keys="config.rewards.judge")
    judge = make(meter)
    judge.score("one")
    with pytest.raises(JudgeFailure, match=r"budget of the judge, 1 dollars \(config.rewards.judge.budget_dollars\)"):
        judge.score("two")
    assert len(server.asked) == 1 and len(list(read_log(make.folder))) == 1


def test_answers_are_asked_side_by_side(server, make):
    judge, at_once, most = make(concurrency=4), set(), []

    def answer(body):
        at_once.add(id(body))
        most.append(len(at_once))
        server.ended(0.2)
        at_once.discard(id(body))
        return "score: 1"

    server.answer = answer
    for number in range(8):
        judge.begin(str(number))
    assert [judge.score(str(number)) for number in range(8)] == [1.0] * 8
    assert 2 <= max(most) <= 4


def test_what_is_wrong_with_the_server_is_said_before_anything_is_written(server, make):
    server.models = ["another"]
    with pytest.raises(ValueError, match=r"got 'gpt-4o', .* has another \(config.rewards.judge.model\)"):
        make().check()

    def refuse(body):
        raise openai_error(400, "Unsupported parameter: 'temperature'", "unsupported_parameter", "temperature")

    assert not make.folder.exists()
    server.models, server.answer = None, refuse
    with pytest.raises(JudgeFailure, match=r"config.rewards.judge.temperature"):
        make().score("one")


def test_closing_ends_what_is_asked_and_may_be_done_without_a_question(server, make):
    make().close()
    assert not make.folder.exists()
    server.faults = lambda number: "timeout"
    judge, begin = make(timeout_s=60.0), time.monotonic()
    judge.begin("one")
    while not server.asked:
        time.sleep(0.01)
    judge.close()
    judge.close()
    assert time.monotonic() - begin < 3.0
    [line] = read_log(make.folder)
    assert line["outcome"] == "cut"
