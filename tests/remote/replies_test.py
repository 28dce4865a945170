"""Chat completions in the forms that servers document, and bodies that are none."""

import pytest

from arft_jax.remote.costs import Usage
from arft_jax.remote.replies import BadReply, Reply, reply_of
from arft_jax.testing.chat_server import ChatServer


def payload(**parts):
    choice = {"index": 0, "message": {"role": "assistant", "content": "seven"}, "finish_reason": "stop"} | parts
    return {"model": "m", "choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}


CALL = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"q": "é"}'}}


@pytest.mark.parametrize(
    "body, reply",
    [
        (payload(), Reply("seven", model="m", usage=Usage(3, 0, 1))),
        (payload(finish_reason="length"), Reply("seven", is_cut=True, model="m", usage=Usage(3, 0, 1))),
        (payload(stop_reason=None), Reply("seven", says_stop=True, model="m", usage=Usage(3, 0, 1))),
        (payload(stop_reason="</a>"), Reply("seven", stop="</a>", says_stop=True, model="m", usage=Usage(3, 0, 1))),
        (payload(stop_reason=151645), Reply("seven", says_stop=True, model="m", usage=Usage(3, 0, 1))),  # a token's id
        (
            payload(message={"content": None, "refusal": "I'm sorry, I can't help."}),
            Reply("", refusal="I'm sorry, I can't help.", model="m", usage=Usage(3, 0, 1)),
        ),
        (
            payload(finish_reason="content_filter", message={"content": ""}),
            Reply("", refusal="the content filter", model="m", usage=Usage(3, 0, 1)),
        ),
        (
            payload(message={"content": None}, finish_reason="length"),  # reasoning took all of the budget
            Reply("", is_cut=True, model="m", usage=Usage(3, 0, 1)),
        ),
        ({"choices": [{"message": {"content": "a"}}]}, Reply("a")),  # nothing but what must be there
        (
            payload(message={"content": "a", "reasoning_content": "b"}),
            Reply("a", thought="b", model="m", usage=Usage(3, 0, 1)),
        ),
        (payload(message={"content": "a", "reasoning": "b"}), Reply("a", thought="b", model="m", usage=Usage(3, 0, 1))),
        (
            payload(message={"content": None, "tool_calls": [CALL, "x", {"function": {"name": 3}}]}),
            Reply("", calls=('{"name": "find", "arguments": {"q": "é"}}',), model="m", usage=Usage(3, 0, 1)),
        ),
        ({"model": "\ud800", "choices": [{"message": {"content": "a\udfff"}}]}, Reply("a?", model="?")),
    ],
)  # fmt: skip
def test_a_reply_is_read(body, reply):
    assert reply_of(body) == reply


def test_what_a_server_takes_out_of_a_turn_is_put_back():
    reply = Reply("so", thought="why", calls=('{"name": "a", "arguments": {}}',))
    assert reply.whole == '<think>why</think>\nso\n<tool_call>\n{"name": "a", "arguments": {}}\n</tool_call>'
    assert Reply("<think>x</think>so", thought="x").whole == "<think>x</think>so"  # it was left in as well
    assert Reply("so").whole == "so"


@pytest.mark.parametrize(
    "body, reason",
    [
        ([], "no JSON object but list"),
        ({}, "without choices"),
        ({"choices": []}, "without choices"),
        ({"choices": None}, "without choices"),
        ({"error": {"message": "Provider returned error", "code": 502}}, "an error: Provider returned error"),
        ({"choices": ["x"]}, "without a message"),
        ({"choices": [{"message": None}]}, "without a message"),
        (payload(message={"content": [{"type": "text"}]}), "no text but list"),
        (payload(finish_reason="error"), "ended by error"),
        (payload(finish_reason="abort"), "ended by abort"),
    ],
)
def test_what_is_no_reply_is_named(body, reason):
    with pytest.raises(BadReply, match=reason):
        reply_of(body)


@pytest.mark.parametrize("model, details", [("gpt-4o", True), ("o3", True), ("xcomposer", False)])
def test_the_forms_of_the_servers_of_the_table_are_read(model, details):
    with ChatServer() as server:
        body = server.completion({"model": model, "messages": [{"role": "user", "content": "question " * 20}]})
    reply = reply_of(body)
    assert reply.text == "<think>t</think><answer>7</answer>" and reply.refusal is None and not reply.is_cut
    assert (reply.usage.cached_tokens > 0) is details and reply.usage.reasoning_tokens == (64 if model == "o3" else 0)
    assert reply.model.startswith({"xcomposer": "internlm-xcomposer2d5"}.get(model, model))
