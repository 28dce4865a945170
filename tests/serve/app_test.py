"""A server on loopback and OpenAI's own client: turns, agents, streams, refusals, and clients that go away."""

import asyncio
import contextlib
import http.client
import json
import threading
import time

import numpy as np
import openai
import pytest
import uvicorn

from arft_jax.data.tokenizer import Tokenizer
from arft_jax.io.trajectories import load_trajectories
from arft_jax.remote.faults import Meaning, meaning_of
from arft_jax.rollout.service import Service
from arft_jax.serve.app import Server, Terms
from arft_jax.serve.door import Door
from arft_jax.serve.record import Recorder
from arft_jax.syntax.hermes import HermesSyntax
from arft_jax.syntax.spec import ToolSpec
from arft_jax.testing.tiny_rollout import LateTools, Stage, failing
from arft_jax.trajectory import Observation, Task

KEY = "sesame"
LONG = "word " * 40
TURNS = {
    "general": {
        "Who?": ["Ann is here."],
        "Much?": [LONG],
        "Look?": ['Hm. <tool_call>\n{"name": "look", "arguments": {"at": "é"}}\n</tool_call>'],
        "Bad?": ['<tool_call>\n{"name": "fly"}\n</tool_call>'],
    },
    "search": {
        "Find?": ["<think>a</think><search>fox</search>", "<think>b</think><answer>red</answer>"],
        "Fail?": ["<think>a</think><search>out</search>"],
    },
}
LOOK = {"type": "function", "function": {"name": "look", "parameters": {"properties": {"at": {"type": "string"}}}}}


def answer(task, call, image):
    return failing(task, call, image) if task.question == "Fail?" else Observation(f"seen {call.arguments['query']}")


class Served:
    """A scripted policy behind a server, its threads and its clients."""

    def __init__(self, stage, folder, **terms):
        tasks = [(Task(q, kind, q, (), ()), said) for kind, turns in TURNS.items() for q, said in turns.items()]
        specs = (ToolSpec("look", "", LOOK["function"]["parameters"], "look"),)
        system = HermesSyntax(specs).system("Answer.", specs)
        for question in ("Look?", "Bad?"):  # of clients with a tool
            tasks.append((Task(question, "general", question, (), (), system=system), TURNS["general"][question]))
        self.tools, engine = LateTools(answer), stage.engine
        self.service = Service(engine, stage.params(tasks), self.tools, terms.pop("max_waiting", 8))
        self.door = Door("tiny", {"search": ""}, engine.renderer, engine.limits)
        self.recorder = Recorder(folder)
        server = Server(
            self.service,
            self.door,
            stage.tokenizer,
            Terms(**dict(key=KEY) | terms),
            self.recorder,
            {"model": "tiny"},
        )
        self.http = uvicorn.Server(uvicorn.Config(server.app(), port=0, log_level="error", lifespan="off"))
        self.threads = [threading.Thread(target=self.service.run), threading.Thread(target=self._serve)]

    def _serve(self):
        asyncio.run(self.http.serve())

    @property
    def port(self):
        return self.http.servers[0].sockets[0].getsockname()[1]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        while not self.http.started:
            time.sleep(0.01)
        url = f"http://127.0.0.1:{self.port}/v1"
        self.client = openai.OpenAI(base_url=url, api_key=KEY, max_retries=0, timeout=120)
        self.stranger = openai.OpenAI(base_url=url, api_key="guess", max_retries=0, timeout=120)
        return self

    def __exit__(self, *_):
        self.http.should_exit = True
        self.service.leave_all()
        for thread in self.threads:
            thread.join(60)
        for closing in (self.client, self.stranger, self.tools, self.recorder):
            closing.close()
        assert not any(thread.is_alive() for thread in self.threads)

    def ask(self, question, model="tiny", **options):
        system = [{"role": "system", "content": "Answer."}] if model == "tiny" else []
        messages = [*system, {"role": "user", "content": question}]
        return self.client.chat.completions.create(model=model, messages=messages, **options)

    def get(self, path, method="GET", body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers)
            reply = connection.getresponse()
            return reply.status, reply.read(), dict(reply.headers)

    def wait_until_idle(self):
        end = time.monotonic() + 60
        while self.service.n_busy or self.service.n_waiting:
            assert time.monotonic() < end
            time.sleep(0.01)


@pytest.fixture(scope="module")
def stage():
    return Stage(Tokenizer.tiny(), max_tokens=600, max_turn_tokens=200)


@pytest.fixture(scope="module")
def served(stage, tmp_path_factory):
    with Served(stage, tmp_path_factory.mktemp("record")) as served:
        yield served


def joined(chunks):
    """(content, reasoning, finish reasons, usage) of a stream."""
    content, thought, reasons, usage = "", "", [], None
    for chunk in chunks:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            content += choice.delta.content or ""
            thought += getattr(choice.delta, "reasoning_content", None) or ""
            reasons += [choice.finish_reason] if choice.finish_reason else []
    return content, thought, reasons, usage


def test_a_turn_is_what_the_policy_says_whole_or_in_pieces(served):
    reply = served.ask("Who?")
    [choice] = reply.choices
    assert (choice.message.content, choice.finish_reason, reply.model) == ("Ann is here.", "stop", "tiny")
    chunks = list(served.ask("Who?", stream=True, stream_options={"include_usage": True}))
    content, _, reasons, usage = joined(chunks)
    assert (content, reasons, usage) == ("Ann is here.", ["stop"], reply.usage)
    assert sum(bool(chunk.choices and chunk.choices[0].delta.content) for chunk in chunks) > 1


def test_the_ids_and_log_probs_of_a_reply_are_those_of_its_record(served):
    reply = served.ask("Who?", logprobs=True, n=2, extra_body={"return_token_ids": True}, metadata={"run": "7"})
    served.recorder._thread.submit(lambda: None).result()  # behind what was queued
    folder = served.recorder._writer._file.name
    rows = [row for row in load_trajectories(folder) if row.info["request"] == reply.id]
    assert [row.row for row in rows] == [0, 1] and rows[0].info["metadata"] == {"run": "7"}
    for row, choice in zip(rows, reply.choices, strict=True):
        assert row.tokens[: row.prompt_len].tolist() == reply.model_extra["prompt_token_ids"]
        assert row.tokens[row.loss_mask].tolist() == choice.model_extra["token_ids"]
        logps = [entry.logprob for entry in choice.logprobs.content]
        np.testing.assert_allclose(logps, row.sampler_logps[row.loss_mask], atol=1e-7)
        assert "".join(entry.token for entry in choice.logprobs.content[:-1]) == "Ann is here."


def test_stop_strings_and_budgets_end_a_turn(served):
    for stream in (False, True):
        reply = served.ask("Much?", stop=["ord word w"], stream=stream)
        content, reason = joined(reply)[::2] if stream else (reply.choices[0].message.content, ["stop"])
        assert content == "w" and reason == ["stop"]
    reply = served.ask("Much?", max_completion_tokens=5)
    assert reply.choices[0].finish_reason == "length" and reply.usage.completion_tokens == 5
    assert LONG.startswith(reply.choices[0].message.content)
    served.wait_until_idle()


def test_a_call_of_the_clients_tool_is_a_tool_call(served):
    for stream in (False, True):
        reply = served.ask("Look?", tools=[LOOK], stream=stream)
        if stream:
            chunks = [chunk.choices[0] for chunk in reply]
            text = "".join(chunk.delta.content or "" for chunk in chunks)
            [call] = [call for chunk in chunks for call in chunk.delta.tool_calls or ()]
            reason = chunks[-1].finish_reason
        else:
            [choice] = reply.choices
            text, [call], reason = choice.message.content, choice.message.tool_calls, choice.finish_reason
        assert (text, reason, call.type) == ("Hm. ", "tool_calls", "function")
        assert (call.function.name, json.loads(call.function.arguments)) == ("look", {"at": "é"})
    plain = served.ask("Look?").choices[0]  # not a client that has said what it can call
    assert plain.finish_reason == "stop" and plain.message.content == TURNS["general"]["Look?"][0]


def test_a_call_that_its_tool_does_not_take_is_text(served):
    [choice] = served.ask("Bad?", tools=[LOOK]).choices
    assert (choice.message.content, choice.finish_reason) == (TURNS["general"]["Bad?"][0], "stop")


def test_the_turn_of_a_call_is_remembered_under_its_id(served):
    [choice] = served.ask("Look?", tools=[LOOK]).choices
    [call] = choice.message.tool_calls
    assert served.door.memory.text_of(call.id) == TURNS["general"]["Look?"][0]


def test_an_agent_runs_its_own_tools_until_it_answers(served):
    reply = served.ask("Find?", "tiny-search")
    [choice] = reply.choices
    assert (choice.message.content, choice.finish_reason) == ("red", "stop")
    told = choice.model_extra["trajectory"]
    assert told["status"] == "answered" and [turn["text"] for turn in told["turns"]] == TURNS["search"]["Find?"]
    assert told["turns"][0]["observation"] == {"tool": "search", "status": "ok", "text": "seen fox", "n_images": 0}
    content, thought, reasons, _ = joined(served.ask("Find?", "tiny-search", stream=True))
    assert (content, reasons) == ("red", ["stop"]) and thought.rstrip("\n") == choice.message.reasoning_content


def test_a_fault_of_a_tool_is_a_fault_of_the_server(served):
    for stream in (False, True):
        with pytest.raises(openai.APIError, match="a tool of the agent failed"):
            list(served.ask("Fail?", "tiny-search", stream=stream))


def test_bad_requests_name_their_field_and_keep_nothing(served):
    messages = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
    for options, param in (
        (dict(model="other"), "model"),
        (dict(model="tiny-search", messages=messages), "model"),
        (dict(extra_body={"corpus": "x"}), "corpus"),
        (dict(messages=[{"role": "user", "content": "long " * 600}]), "messages"),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            served.client.chat.completions.create(**{"model": "tiny", "messages": messages[1:]} | options)
        assert refused.value.param == param
    assert served.service.n_busy == served.service.n_waiting == 0


def test_a_prompt_that_is_too_long_has_the_code_that_clients_know(served):
    with pytest.raises(openai.BadRequestError, match="must leave room for an answer") as refused:
        served.ask("word " * 4000)
    assert (refused.value.param, refused.value.code) == ("messages", "context_length_exceeded")
    assert meaning_of(400, refused.value.code, str(refused.value)) is Meaning.LENGTH  # as our own client reads it


def test_strangers_and_large_bodies_are_refused(served, stage, tmp_path):
    with pytest.raises(openai.AuthenticationError):
        served.stranger.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "Who?"}])
    assert served.get("/v1/chat/completions")[0] == 405 and served.get("/v1/nothing")[0] == 404
    bearer = {"Authorization": f"Bearer {KEY}"}
    assert served.get("/v1/chat/completions", "POST", b" " * (64 << 20) + b"{}", **bearer)[0] == 413


def test_health_models_and_metrics_are_told(served):
    served.ask("Who?")
    assert json.loads(served.get("/health")[1]) == {"status": "ok"}
    assert [model.id for model in served.client.models.list()] == ["tiny", "tiny-search"]
    text = served.get("/metrics")[1].decode()
    assert 'arft_requests_total{status="200"}' in text and "arft_slots 6.0" in text
    sampled = float(next(line for line in text.splitlines() if line.startswith("arft_sampled_tokens")).split()[1])
    assert sampled == served.service.counts.n_sampled > 0


def test_a_client_that_goes_away_frees_its_slots(stage, tmp_path):
    with Served(stage, tmp_path) as slow:
        play = slow.service._scheduler.round

        def late():  # a turn takes some seconds
            time.sleep(0.2)
            play()

        slow.service._scheduler.round = late
        stream = slow.ask("Much?", stream=True)
        next(iter(stream))
        stream.close()
        messages = [{"role": "system", "content": "Answer."}, {"role": "user", "content": "Much?"}]
        body = json.dumps({"messages": messages, "n": 5}).encode()
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", slow.port)) as connection:
            connection.request("POST", "/v1/chat/completions", body, {"Authorization": f"Bearer {KEY}"})
            while slow.service.n_busy < 5:
                time.sleep(0.01)
        slow.wait_until_idle()
        assert slow.service.counts.n_left == 2 and slow.service.counts.n_ended == 0
        assert slow.ask("Who?").choices[0].message.content == "Ann is here."


def test_a_full_server_says_when_to_come_again_and_a_slow_one_gives_up(stage, tmp_path):
    with Served(stage, tmp_path, max_waiting=1) as busy:
        held, release = threading.Event(), threading.Event()
        play = busy.service._scheduler.round

        def round_when_released():
            held.set()
            release.wait(60)
            play()

        busy.service._scheduler.round = round_when_released
        body = json.dumps({"messages": [{"role": "user", "content": "Who?"}]}).encode()
        bearer = {"Authorization": f"Bearer {KEY}"}
        replies = []
        threads = [
            threading.Thread(target=lambda: replies.append(busy.get("/v1/chat/completions", "POST", body, **bearer)))
            for _ in range(4)
        ]
        threads[0].start()
        assert held.wait(60)
        for thread in threads[1:]:
            thread.start()
        while len(replies) < 3:
            time.sleep(0.01)
        release.set()
        for thread in threads:
            thread.join(60)
        statuses = sorted(status for status, _, _ in replies)
        assert statuses == [200, 429, 429, 429]
        assert {headers["retry-after"] for status, _, headers in replies if status == 429} == {"1"}
    with Served(stage, tmp_path / "slow", timeout_s=0.0) as slow:
        with pytest.raises(openai.InternalServerError, match="took more than 0 s"):
            slow.ask("Much?")
        slow.wait_until_idle()


def test_a_server_that_stops_tells_those_who_wait(stage, tmp_path):
    with Served(stage, tmp_path) as stopping:
        stopping.service.close()
        while stopping.threads[0].is_alive():
            time.sleep(0.01)
        assert stopping.get("/health")[0] == 503
        with pytest.raises(openai.InternalServerError, match="stopping"):
            stopping.ask("Who?")


def test_a_seed_is_a_key_and_no_seed_draws_one(served):
    def key(**values):
        body = {"messages": [{"role": "user", "content": "Who?"}]} | values
        return served.door.read(json.dumps(body).encode(), "x").request.rng.tolist()

    assert key(seed=1) == key(seed=1) != key(seed=2) and key() != key()
