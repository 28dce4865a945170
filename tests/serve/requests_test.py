"""Bodies of chat completions: what is read, and what is refused with its field before anything waits."""

import json

import numpy as np
import pytest

from arft_jax.serve.requests import BadRequest, read_request
from arft_jax.trajectory import Image


def picture(source, where):
    return Image(np.zeros((4, 4, 3), np.uint8), str(source))


def read(**values):
    return read_request(json.dumps({"messages": [{"role": "user", "content": "Hi."}]} | values).encode(), picture)


def test_a_bare_question_has_the_defaults_of_the_api():
    chat = read()
    assert [m.parts for m in chat.messages] == [("Hi.",)]
    assert (chat.temperature, chat.top_p, chat.n, chat.seed, chat.max_tokens) == (1.0, 1.0, 1, None, None)
    assert not (chat.stream or chat.logprobs or chat.include_usage or chat.stop or chat.tools)


def test_parts_keep_their_order_and_calls_their_arguments():
    part = {"type": "image_url", "image_url": {"url": "u"}}
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"x": 1}'}}
    chat = read(
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "a"}, part, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "red"},
        ],
        max_tokens=5,
        max_completion_tokens=7,
        stop="x",
    )
    system, user, turn, reply = chat.messages
    assert (system.role, user.parts[0], user.images[0].name, user.parts[2]) == ("system", "a", "u", "b")
    assert turn.calls == (("c1", "look", {"x": 1}),) and reply.text == "red"
    assert chat.max_tokens == 7 and chat.stop == ("x",) and [image.name for image in chat.images] == ["u"]


def test_tool_choice_none_hides_the_tools():
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    assert [spec.name for spec in read(tools=[tool]).tools] == ["look"]
    assert read(tools=[tool], tool_choice="none").tools == ()


@pytest.mark.parametrize(
    ("values", "param"),
    [
        (dict(temperature=2.1), "temperature"),
        (dict(temperature=True), "temperature"),
        (dict(temperature=float("nan")), "temperature"),
        (dict(top_p=0), "top_p"),
        (dict(n=0), "n"),
        (dict(n=1.5), "n"),
        (dict(max_tokens=0), "max_tokens"),
        (dict(seed="1"), "seed"),
        (dict(stop=["a"] * 9), "stop"),
        (dict(stop=[""]), "stop"),
        (dict(stream=1), "stream"),
        (dict(stream_options=[1]), "stream_options"),
        (dict(metadata=[["a", "b"]]), "metadata"),
        (dict(logit_bias={"5": 1}), "logit_bias"),
        (dict(top_logprobs=2), "top_logprobs"),
        (dict(tool_choice="required"), "tool_choice"),
        (dict(response_format={"type": "json_object"}), "response_format"),
        (dict(presence_penalty=0.1), "presence_penalty"),
        (dict(wings=2), "wings"),
        (dict(model=5), "model"),
        (dict(tools=[{"type": "function", "function": {}}]), "tools[0]"),
        (dict(tools={"a": 1}), "tools"),
        (dict(messages=[]), "messages"),
        (dict(messages=[{"role": "robot", "content": "x"}]), "messages[0]"),
        (dict(messages=[{"role": "user", "content": ""}]), "messages[0]"),
        (dict(messages=[{"role": "user", "content": 5}]), "messages[0]"),
        (dict(messages=[{"role": "user", "content": [{"type": "audio"}]}]), "messages[0].content[0]"),
        (dict(messages=[{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]), "messages[1]"),
        (dict(messages=[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]), "messages"),
        (
            dict(messages=[{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "["}}]}]),
            "messages[0].tool_calls[0]",
        ),
        (dict(messages=[{"role": "system", "content": [{"type": "image_url"}]}]), "messages[0].content[0]"),
    ],
)
def test_what_cannot_be_served_is_refused_with_its_field(values, param):
    with pytest.raises(BadRequest) as refused:
        read(**values)
    assert refused.value.param == param and len(str(refused.value)) > 10


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'"\\ud800"', b"[" * 100_000, b"\xff"])
def test_a_body_that_is_no_json_object_is_refused(body):
    with pytest.raises(BadRequest):
        read_request(body, picture)
