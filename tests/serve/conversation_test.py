"""A client's messages become the token stream of the trajectory that says the same."""

import json

import numpy as np
import pytest

from arft_jax.data.chat import conversation_segment, observation_segment, prompt_segment
from arft_jax.data.chat_template import render, tiny_template
from arft_jax.data.images import ImageProcessor
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.serve.conversation import Conversation, Memory
from arft_jax.serve.requests import BadRequest, Message
from arft_jax.syntax.hermes import HermesSyntax
from arft_jax.syntax.spec import ToolSpec
from arft_jax.testing.tiny_rollout import tiny_image
from arft_jax.trajectory import Observation

LOOK = ToolSpec("look", "Looks.", {"type": "object", "properties": {"at": {"type": "string"}}}, "look")
PROCESSOR = ImageProcessor(28 * 28, 56 * 56)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.tiny()


def tokens_of(tokenizer, messages, tools=(), memory=None):
    talk = Conversation(messages, tools, memory or Memory())
    return conversation_segment(tokenizer, PROCESSOR, talk.said)


def test_a_question_is_the_prompt_of_the_task_that_asks_it(tokenizer):
    image = tiny_image(1, 28, 56)
    ours = tokens_of(tokenizer, [Message("system", ("Be brief.",)), Message("user", (image, "Who?"))])
    theirs = prompt_segment(tokenizer, PROCESSOR, "Be brief.", "Who?", [image])
    np.testing.assert_array_equal(ours.tokens, theirs.tokens)
    np.testing.assert_array_equal(ours.is_image, theirs.is_image)
    assert ours.grids == theirs.grids and ours.image_lens == theirs.image_lens


@pytest.mark.parametrize("syntax", [None, HermesSyntax([LOOK])])
def test_turns_and_observations_have_the_tokens_of_a_rollout(tokenizer, syntax):
    first, second = tiny_image(1), tiny_image(2, 56, 28)
    prompt = prompt_segment(tokenizer, PROCESSOR, "Be brief.", "Who?", [first])
    turn = "<think>Look.</think><look>here</look>"
    reply = (lambda text: ("", text)) if syntax is None else syntax.reply
    seen = observation_segment(tokenizer, PROCESSOR, Observation("red", (second,)), reply)
    rollout = [*prompt.tokens, *tokenizer.encode(turn), *seen.tokens]
    before, behind = reply("red")
    user = tuple(part for part in (before, second, behind) if part != "")
    told = [Message("system", ("Be brief.",)), Message("user", (first, "Who?")), Message("assistant", (turn,))]
    np.testing.assert_array_equal(tokens_of(tokenizer, [*told, Message("user", user)]).tokens, rollout)
    if syntax is not None:
        np.testing.assert_array_equal(tokens_of(tokenizer, [*told, Message("tool", ("red", second))]).tokens, rollout)


def test_a_turn_is_encoded_by_itself(tokenizer, monkeypatch):
    encoded, encode = [], tokenizer.encode  # other tokenizers have a token for the line breaks before and in it
    monkeypatch.setattr(tokenizer, "encode", lambda text: encoded.append(text) or encode(text))
    tokens_of(tokenizer, [Message("user", ("a",)), Message("assistant", ("\nred",)), Message("user", ("b",))])
    assert "\nred" in encoded and "assistant\n" in encoded


def test_tools_and_their_replies_stand_as_the_chat_template_writes_them(tokenizer):
    calls = (("c1", "look", {"at": "left"}), ("c2", "look", {"at": "é"}))
    ours = tokens_of(
        tokenizer,
        [
            Message("system", ("Be brief.",)),
            Message("user", ("Who?",)),
            Message("assistant", (), calls),
            Message("tool", ("Ann.",)),
            Message("tool", ("Bob.",)),
        ],
        (LOOK,),
    )
    functions = [{"type": "function", "function": {"name": name, "arguments": dict(args)}} for _, name, args in calls]
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "", "tool_calls": functions},
        {"role": "tool", "content": "Ann."},
        {"role": "tool", "content": "Bob."},
    ]
    assert tokenizer.decode(ours.tokens) == render(tiny_template(), messages, [LOOK.schema])


def test_a_turn_that_was_sampled_here_comes_back_with_the_ids_that_were_sampled(tokenizer):
    question = [Message("user", ("Who?",))]
    text = "the circle"
    odd = np.array([token for char in text for token in tokenizer.encode(char)], np.int32)  # not as it is encoded
    assert odd.tolist() != tokenizer.encode(text)
    memory = Memory()
    memory.keep(Conversation(question, (), memory).before, text, odd)
    follow = [*question, Message("assistant", (text,)), Message("user", ("Sure?",))]
    known, unknown = tokens_of(tokenizer, follow, memory=memory).tokens, tokens_of(tokenizer, follow).tokens
    assert tokenizer.decode(known) == tokenizer.decode(unknown) and len(known) > len(unknown)
    spaced = np.array([*odd, *tokenizer.encode("\n")], np.int32)  # as a last token may hold more than the tag
    memory.keep(Conversation(question, (), memory).before, f"{text}\n", spaced)
    assert len(tokens_of(tokenizer, follow, memory=memory).tokens) == len(known) + len(spaced) - len(odd)
    other = [Message("user", ("What?",)), *follow[1:]]  # the same text behind another question is another turn
    assert len(tokens_of(tokenizer, other, memory=memory).tokens) == len(tokens_of(tokenizer, other).tokens)


def test_a_call_comes_back_as_the_turn_that_made_it(tokenizer):
    memory, question = Memory(), [Message("user", ("Who?",))]
    text = '<think>hm</think> <tool_call> {"name": "look", "arguments": {"at": "x"}}</tool_call>'  # spaced its own way
    ids = np.array(tokenizer.encode(text), np.int32)
    memory.keep(Conversation(question, (LOOK,), memory).before, text, ids, "call_1")
    told = [*question, Message("assistant", ("hm",), (("call_1", "look", {"at": "x"}),)), Message("tool", ("red",))]
    assert json.dumps(text)[1:-1] in json.dumps(tokenizer.decode(tokens_of(tokenizer, told, (LOOK,), memory).tokens))


def test_memory_forgets_the_oldest_turns_first():
    memory = Memory(max_tokens=10)
    for number in range(5):
        memory.keep("before", f"turn {number}", np.zeros(4, np.int32), f"call {number}")
    assert [memory.ids("before", f"turn {n}") is not None for n in range(5)] == [False, False, False, True, True]
    assert memory.text_of("call 0") is None and memory.text_of("call 4") == "turn 4"


def test_a_call_of_no_tool_of_the_request_is_refused():
    told = [Message("user", ("a",)), Message("assistant", (), (("c", "fly", {}),)), Message("user", ("b",))]
    with pytest.raises(BadRequest, match="tool_calls"):
        Conversation(told, (LOOK,), Memory())
    with pytest.raises(BadRequest, match="differ in name"):
        Conversation([Message("user", ("a",))], (LOOK, LOOK), Memory())
