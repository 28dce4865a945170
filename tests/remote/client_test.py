"""The client against a server that fails in every way: what is asked again, what ends, what is written and hidden."""

import asyncio
import collections
import dataclasses
import json
import logging
import socket
import time
import traceback

import pytest

pytest.importorskip("openai", reason="needs the openai package, of the [openai] extra")

from arft_jax.remote.client import MAX_REFUSED, BudgetSpent, ChatClient, Hopeless, Server
from arft_jax.remote.costs import Meter
from arft_jax.remote.faults import Meaning, Refused, Unanswered
from arft_jax.remote.log import RequestLog, read_log
from arft_jax.testing.chat_server import FAULTS, ChatServer, ErrorReply, openai_error

KEY = "sk/test+0123456789abcdef"
ASK = [{"role": "user", "content": "Which?"}]
SHOW = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]}]


@pytest.fixture
def server():
    with ChatServer(slow_s=5.0) as server:
        yield server


@pytest.fixture
def ask(server, tmp_path):
    """Asks a client of the server; its log is in the folder ``ask.folder``."""

    def make(n=1, messages=ASK, meter=None, checks=False, at_once=False, in_turn=False, **options):
        usual = dict(base_url=server.url, model="gpt-4o", key=KEY, key_env="A_KEY", timeout_s=20.0, backoff_s=0.001)
        requests = RequestLog(tmp_path)
        client = ChatClient(Server(**usual | options), meter or Meter({}), requests)

        async def play():
            async with client.connected():
                if checks:
                    return await client.check()
                if at_once:
                    asked = [client.complete(messages, {"item": i + 1, "turn": 1}) for i in range(n)]
                    return await asyncio.gather(*asked, return_exceptions=True)
                ended = []
                for i in range(n):
                    one = client.complete(messages, {"item": i + 1, "turn": 1})
                    ended += await asyncio.gather(one, return_exceptions=True) if in_turn else [await one]
                return ended

        try:
            return asyncio.run(play())
        finally:
            requests.close()

    make.folder = tmp_path
    make.lines = lambda: list(read_log(tmp_path))
    return make


@pytest.mark.parametrize("fault", [*FAULTS, "429:0.01", "429:date:0"])
def test_every_passing_fault_is_asked_again_and_answered_once(server, ask, fault):
    server.faults = lambda number: fault if number == 0 else None
    meter, is_slow = Meter({}), fault in ("timeout", "drip")
    [reply] = ask(meter=meter, timeout_s=0.7 if is_slow else 20.0)
    assert reply.text == "<think>t</think><answer>7</answer>" and server.answered == {"Which?": 1}
    first, second = ask.lines()
    assert (first["try"], second["try"], second["outcome"], second["status"]) == (1, 2, "reply", 200)
    assert (
        first["outcome"] in ("failed", "lost", "unreadable")
        and first["error"]
        and (first["error"] == "no reply in 0.7 s") is is_slow
    )
    assert first["seconds"] < 2.5 or not is_slow
    total = meter.totals()["gpt-4o"]
    assert {name: total[name] for name in server.spent} == server.spent and total["requests"] == 2


def test_tries_that_are_used_up_end_with_the_last_reason(server, ask):
    server.faults = lambda number: "500"
    with pytest.raises(Unanswered, match=r"status 500: The server had an error.* \(3 tries\)"):
        ask(n_tries=3)
    assert [line["try"] for line in ask.lines()] == [1, 2, 3]


def test_halves_of_surrogate_pairs_stop_nothing(server, ask):
    def refuse(body):
        raise ErrorReply(400, {"error": {"message": "odd \ud800"}})

    server.answer = refuse
    with pytest.raises(Refused, match=r"status 400: odd \?"):
        ask()
    assert ask.lines()[0]["error"] == "status 400: odd ?"


def test_waits_double_and_are_shaken(server, ask, monkeypatch):
    waited = []

    async def sleep(seconds):
        waited.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    server.faults = lambda number: "500"
    with pytest.raises(Unanswered):
        ask(n_tries=6, backoff_s=2.0, max_backoff_s=9.0)
    for wait, longest in zip(waited, [2, 4, 8, 9, 9], strict=True):
        assert longest / 2 <= wait <= longest
    waited.clear()
    server.faults = lambda number: "429:0.05" if number < 7 else None
    ask(backoff_s=0.04)
    [wait] = waited  # requests do not come back all at the moment that the server named
    assert 0.05 <= wait <= 0.09


def test_a_wait_that_the_server_asks_for_holds_every_request(server, ask):
    server.faults = lambda number: "429:0.5" if number == 0 else None
    begin = time.monotonic()
    ask(backoff_s=0.0)
    assert time.monotonic() - begin >= 0.5
    server.faults = lambda number: "429:date:2" if number == 2 else None  # a date has whole seconds
    begin = time.monotonic()
    ask(n=2, backoff_s=0.0)
    assert time.monotonic() - begin >= 0.9


def test_a_server_that_wants_hours_is_not_waited_for(server, ask):
    server.faults = lambda number: "429:7200"
    with pytest.raises(Unanswered, match="the server asks to wait 7200 s"):
        ask()
    assert len(ask.lines()) == 1


@pytest.mark.parametrize(
    "error, meaning",
    [
        (
            openai_error(400, "This model's maximum context length is 10 tokens", "context_length_exceeded"),
            Meaning.LENGTH,
        ),
        (openai_error(400, "flagged as potentially violating our usage policy", "invalid_prompt"), Meaning.CONTENT),
        (ErrorReply(400, {"object": "error", "message": "odd", "code": 400}), Meaning.OTHER),  # LMDeploy
    ],
)
def test_what_the_server_will_not_serve_is_not_asked_again(server, ask, error, meaning):
    def answer(body):
        raise error

    server.answer = answer
    with pytest.raises(Refused) as caught:
        ask()
    assert caught.value.meaning is meaning
    [line] = ask.lines()
    assert line["outcome"] == "refused" and line["status"] == 400 and line["usage"] is None


@pytest.mark.parametrize(
    "options, sentence",
    [
        (
            dict(key="wrong-key-123456"),
            r"the server must take the key: got status 401: .* the environment variable A_KEY",
        ),
        (dict(model="gpt-5o"), r"must have the model and chat completions: got status 404: .*config.openai.model"),
        (
            dict(model="o3", fields={"max_tokens": 5}),
            r"'max_completion_tokens' instead.*\(config.openai.max_tokens_name",
        ),
        (dict(model="o3", fields={"temperature": 0.0}), r"Only the default.*\(config.openai.temperature\)"),
    ],
)
def test_what_every_request_would_meet_ends_all(server, ask, options, sentence):
    server.key = KEY
    with pytest.raises(Hopeless, match=sentence):
        ask(**options)
    assert len(ask.lines()) == 1


def test_a_model_that_takes_no_images_ends_all_unless_it_has_taken_one(server, ask):
    def refuse(body):
        raise openai_error(400, "Invalid content type. image_url is only supported by certain models.")

    normal, server.answer = server.answer, refuse
    with pytest.raises(Hopeless, match=r"model must take images: got status 400: .* \(config.openai.model\)"):
        ask(messages=SHOW)
    with pytest.raises(Refused):  # nothing was shown
        ask()
    server.answer = lambda body: normal(body) if server.n_requests == 3 else refuse(body)
    with pytest.raises(Refused):
        ask(n=2, messages=SHOW)


def test_refusals_of_unknown_reason_end_all_where_nothing_was_ever_answered(server, ask):
    def refuse(body):
        raise ErrorReply(422, {"detail": [{"msg": "Extra inputs are not permitted"}]})

    normal, server.answer = server.answer, refuse
    ended = ask(n=MAX_REFUSED, at_once=True)
    # all at once: whichever is refused last ends the evaluation
    assert collections.Counter(map(type, ended)) == {Refused: MAX_REFUSED - 1, Hopeless: 1}
    server.answer = lambda body: normal(body) if server.n_requests == MAX_REFUSED + 1 else refuse(body)
    reply, *others = ask(n=MAX_REFUSED + 2, in_turn=True)
    assert reply.text and {type(e) for e in others} == {Refused}


# ------------------------------------------------------------- before any item


def test_a_server_is_asked_for_its_models(server, ask):
    ask(checks=True)
    with pytest.raises(
        Hopeless, match=r"model must be one that the server has: got 'x', .* has gpt-4o, o3, xcomposer \("
    ):
        ask(checks=True, model="x")
    for models in (None, ()):
        server.models = models
        ask(checks=True, model="x")  # a server without a list
    server.key = KEY
    with pytest.raises(Hopeless, match="must take the key: got Incorrect API key"):
        ask(checks=True, key="another-key-0123")
    assert ask.lines() == []


def test_a_server_that_is_not_there_is_named(ask):
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    with pytest.raises(Hopeless, match=rf"a server must answer: got \w+.* from http://127.0.0.1:{port} \(config"):
        ask(checks=True, base_url=f"http://127.0.0.1:{port}")
    with pytest.raises(Unanswered, match="Connect"):
        ask(base_url=f"http://127.0.0.1:{port}", n_tries=2)
    assert [line["outcome"] for line in ask.lines()] == ["failed", "failed"]


# ------------------------------------------------------------- costs, key, log


def test_a_budget_ends_the_asking_before_the_next_request(server, ask):
    meter = Meter({"gpt-4o": (1e6, 1e6)}, budget_dollars=100.0)
    with pytest.raises(BudgetSpent):
        ask(n=50, meter=meter)
    spent = server.spent["prompt_tokens"] + server.spent["completion_tokens"]
    each = spent / server.n_requests
    assert 100 <= spent < 100 + each and len(ask.lines()) == server.n_requests < 50


def test_a_spent_budget_is_not_waited_for(server, ask):
    begin = time.monotonic()
    with pytest.raises(BudgetSpent):
        ask(n=2, meter=Meter({}, budget_tokens=1), requests_per_min=1)
    assert time.monotonic() - begin < 20 and server.n_requests == 1


def test_the_key_is_nowhere_though_the_server_says_it_back(server, ask, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    quoted = KEY.replace("/", "%2F").replace("+", "%2B")
    texts = []
    server.key = KEY
    server.faults = lambda number: "500" if number < 2 else None
    with pytest.raises(Unanswered) as caught:
        ask(n_tries=2)
    texts += traceback.format_exception(caught.value)
    server.answer = lambda body: f"<answer>{KEY} {quoted}</answer>"
    [reply] = ask()
    assert reply.text == "<answer>[redacted] [redacted]</answer>"

    def refuse(body):  # shortened, the message would end in the middle of the key
        raise ErrorReply(401, {"error": {"message": f"{'bad ' * 97}{KEY}", "code": quoted}}, {"x-request-id": KEY})

    server.answer = refuse
    with pytest.raises(Hopeless) as caught:
        ask()
    texts += [*traceback.format_exception(caught.value), caplog.text, *capfd.readouterr(), repr(Server("u", "m", KEY))]
    texts += [path.read_text() for path in ask.folder.iterdir()]
    assert "[redacted]" in texts[-1]
    for text in texts:
        assert not any(part in text for part in (KEY, KEY[:9], KEY[3:], quoted))


def test_a_request_that_is_given_up_is_in_the_log(server, ask, tmp_path):
    server.faults = lambda number: "timeout"
    requests, meter = RequestLog(tmp_path), Meter({})
    client = ChatClient(Server(server.url, "gpt-4o"), meter, requests)

    async def give_up():
        async with client.connected():
            task = asyncio.create_task(client.complete(ASK, {"item": 1}))
            while not server.n_requests:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(give_up())
    requests.close()
    [line] = ask.lines()
    assert line["outcome"] == "cut" and meter.totals()["gpt-4o"]["unknown"] == 1


def test_a_line_says_what_was_asked_and_holds_no_message(server, ask):
    ask(messages=SHOW)
    [line] = ask.lines()
    assert line.pop("time").startswith("20") and line.pop("seconds") >= 0
    usage = dict(line.pop("usage"))
    assert usage == {name: server.spent[name] for name in usage}
    assert line == {
        "item": 1, "turn": 1, "try": 1, "status": 200, "outcome": "reply", "model": "gpt-4o", "request_id": "req_1",
        "error": "",
    }  # fmt: skip
    assert "base64" not in json.dumps(ask.lines())


def test_every_field_of_the_request_is_sent(server, ask):
    ask(fields={"temperature": 0.0, "max_tokens": 9, "reasoning_effort": "low", "stop": ["</a>"]})
    [body] = server.asked
    assert body == {
        "model": "gpt-4o", "messages": ASK, "temperature": 0.0, "max_tokens": 9, "reasoning_effort": "low",
        "stop": ["</a>"],
    }  # fmt: skip


def test_a_reply_without_end_is_not_read_to_its_end(server, ask, monkeypatch):
    monkeypatch.setattr("arft_jax.remote.client.MAX_REPLY_BYTES", 100)
    with pytest.raises(Unanswered, match="a reply of more than 100 bytes"):
        ask(n_tries=1)


def test_settings_of_a_server_do_not_show_its_key():
    assert KEY not in repr(Server("u", "m", KEY)) and dataclasses.asdict(Server("u", "m", KEY))["key"] == KEY
