"""The user's own conversations as chains: what a turn becomes, and what is refused with line and key."""

import json

import numpy as np
import pytest

from arft_jax.data.chat_chains import load_chains
from arft_jax.data.images import encode_png
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.protocol import Answer, ToolCall
from arft_jax.syntax.hermes import HermesSyntax
from arft_jax.testing import tiny_rollout as tiny
from arft_jax.tools.bundled import paper_syntax
from arft_jax.tools.search_tool import SEARCH
from arft_jax.train.warm_start import chain_trajectory
from arft_jax.trajectory import Observation, Status

ZOOM = tiny.tiny_image(9, 28, 56)


def call(name, arguments, **more):
    return {
        "role": "assistant",
        "tool_calls": [{"type": "function", "function": dict(name=name, arguments=arguments)}],
    } | more


MESSAGES = [
    {"role": "system", "content": "Look."},
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Whose?"}]},
    call("search", json.dumps({"query": "red fox"}), content="an emblem", weight=0),
    {"role": "tool", "content": "Fox: Ann", "tool_call_id": "x"},
    call("python", {"code": "x = 1\n"}, reasoning_content="zoom"),
    {"role": "tool", "content": [{"type": "text", "text": "done"}, {"type": "image_url", "image_url": "zoom.png"}]},
    {"role": "assistant", "content": "Ann"},
]
TURNS = (
    "<think>an emblem</think><search>red fox</search>",
    "<think>zoom</think><code>```python\nx = 1\n```</code>",
    "<think></think><answer>Ann</answer>",
)


def load(folder, *lines, syntax=None):
    (folder / "card.png").write_bytes(encode_png(tiny.tiny_image(8, 56, 56)))
    (folder / "zoom.png").write_bytes(encode_png(ZOOM))
    (folder / "chains.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    return load_chains([f"jsonl:{folder}/chains.jsonl"], syntax or paper_syntax())


def test_a_conversation_becomes_a_chain(tmp_path):
    schema = {"type": "function", "function": {"name": "search", "parameters": {}}}
    [chain] = load(tmp_path, dict(messages=MESSAGES, images=["card.png"], tools=[schema, "python"]))
    task = chain.task
    assert (task.id, task.kind, task.question, task.system) == ("chains-0", "general", "Whose?", "Look.")
    assert (task.tools, task.task_set, task.images[0].size) == (("search", "python"), "chains", (56, 56))
    assert tuple(turn.text for turn in chain.turns) == TURNS
    assert [turn.train for turn in chain.turns] == [False, True, True]
    assert [turn.observation and turn.observation.text for turn in chain.turns] == ["Fox: Ann", "done", None]
    np.testing.assert_array_equal(chain.turns[1].observation.images[0].pixels, ZOOM.pixels)


def test_a_rendered_chain_is_the_token_stream_of_a_scripted_rollout(tmp_path):
    [chain] = load(tmp_path, dict(messages=MESSAGES, images=["card.png"]))
    stage = tiny.Stage(Tokenizer.tiny(), n_slots=1, group_size=1, max_tokens=160, max_turn_tokens=48)
    replies = iter([Observation("Fox: Ann"), Observation("done", (ZOOM,))])
    [[sampled]] = stage.play([(chain.task, TURNS)], tiny.InstantTools(lambda *_: next(replies)))
    rendered = chain_trajectory(stage.engine.renderer, chain)
    assert sampled.status is rendered.status is Status.ANSWERED and "Look." in stage.tokenizer.decode(rendered.tokens)
    for name in ("tokens", "positions", "completion_mask"):
        np.testing.assert_array_equal(getattr(rendered, name), getattr(sampled, name), err_msg=name)
    assert [span.sha256 for span in rendered.images] == [span.sha256 for span in sampled.images]
    learnt = sampled.loss_mask.copy()
    learnt[sampled.turns[0].start : sampled.turns[0].end] = False  # weight 0
    np.testing.assert_array_equal(rendered.loss_mask, learnt)


def turn(text, **more):
    """The last turn of a chain of that text."""
    return [{"role": "user", "content": "?"}, {"role": "assistant", "content": text} | more]


def test_text_that_is_a_turn_already_is_taken_as_it_is(tmp_path):
    texts = {
        "<think>a</think><answer>b</answer>": "<think>a</think><answer>b</answer>",
        "<think>a</think>\nb": "<think>a</think><answer>b</answer>",
        " b\n": "<think></think><answer>b</answer>",
        "<answer>b</answer>": "<think></think><answer>b</answer>",
        "<think>a</think><search>b</search>": "<think>a</think><search>b</search>",  # a chain may end with a call
    }
    chains = load(tmp_path, *(dict(messages=turn(text)) for text in texts))
    assert [chain.turns[-1].text for chain in chains] == list(texts.values())
    [thinking] = load(tmp_path, dict(messages=turn("b", reasoning_content="a")))
    assert thinking.turns[0].text == "<think>a</think><answer>b</answer>"
    tagged = [
        *turn("<search>fox</search>"),
        {"role": "user", "content": "red"},
        {"role": "assistant", "content": "red"},
    ]
    assert load(tmp_path, dict(messages=tagged))[0].turns[0].observation.text == "red"


def test_the_turns_are_written_in_the_syntax_of_the_run(tmp_path):
    messages = [MESSAGES[1], call("search", {"query": "red fox"}), MESSAGES[3], *turn("<think>a</think>Ann")[1:]]
    syntax = HermesSyntax([SEARCH.spec])
    [chain] = load(tmp_path, dict(messages=messages, images=["card.png"]), syntax=syntax)
    asked, answered = (syntax.parse(t.text) for t in chain.turns)
    assert asked == ToolCall("search", {"query": "red fox"}) and answered == Answer("Ann")
    assert "<tool_call>" in chain.turns[0].text


def calling(name, arguments):
    return dict(messages=[*turn("a")[:1], call(name, arguments)])


REFUSALS = {
    "no messages": ({}, r"line 1 of .*chains.jsonl: messages must be a list of messages: got None"),
    "a misspelt key": (dict(message=[]), "line 1 of .*: the key 'message' is unknown; did you mean 'messages'?"),
    "no question": (dict(messages=turn("a")[1:]), r"messages must go user, assistant, .*: got \['assistant'\]"),
    "no answer": (dict(messages=turn("a")[:1]), r"messages must go user, assistant, .*: got \['user'\]"),
    "two turns in a row": (dict(messages=turn("a") + turn("b")[1:]), "messages must go user, assistant, tool"),
    "an unknown role": (dict(messages=[*turn("a"), {"role": "robot"}, *turn("b")[1:]]), "must go user, assist"),
    "a blank question": (
        dict(messages=[{"role": "user", "content": " "}, *turn("a")[1:]]), r"messages\[0\].content must hold text, not"
    ),
    "a turn without a call": (
        dict(messages=[*turn("let me see"), {"role": "tool", "content": ""}, *turn("b")[1:]]),
        r"messages\[1\] must call a tool, as every turn but the last: got 'let me see'",
    ),
    "an answer in between": (
        dict(messages=[*turn("<answer>a</answer>"), {"role": "user", "content": "?"}, *turn("b")[1:]]),
        r"messages\[1\] must call a tool",
    ),
    "two calls": (
        dict(messages=turn("", tool_calls=[{}, {}])), r"messages\[1\].tool_calls: a turn must have one call: got 2"
    ),
    "an unknown tool": (calling("zoom", {"box": "a"}), "a call of one of search, diagnose, python: got .*zoom"),
    "two arguments": (calling("search", {"a": "", "b": ""}), "There is no argument 'a'. Arguments: query."),
    "arguments that are no JSON": (calling("search", "{"), "arguments must be JSON"),
    "an argument that is a list": (calling("search", {"query": []}), "The argument 'query' must be string: got array"),
    "a query with tags": (
        calling("search", {"query": "<search>"}), "tool_calls: a written turn must hold no other tag"
    ),
    "an unknown fault": (calling("diagnose", {"problems": ["wet"]}), "tool_calls: .*'problems'"),
    "a blank answer": (dict(messages=turn(" ")), r"messages\[1\] must be an answer, or a whole turn: .*"),
    "nothing learnt": (dict(messages=turn("a", train=False)), r"turn that is learnt: got none \(train, weight"),
    "half a weight": (dict(messages=turn("a", weight=0.5)), r"messages\[1\].weight must be 0 or 1: got 0.5"),
    "an image that is not shown": (dict(messages=turn("a"), images=["card.png"]), "images must each be shown by"),
    "an image that is not there": (
        dict(messages=[{"role": "user", "content": [{"type": "image", "image": "no.png"}]}, *turn("a")[1:]]),
        r"messages\[0\].content\[0\]: image file must exist",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_a_line_that_is_no_chain_is_one_sentence_with_line_and_key(tmp_path, case):
    line, sentence = REFUSALS[case]
    with pytest.raises(ValueError, match=sentence) as error:
        load(tmp_path, line)
    assert str(error.value).startswith("line 1 of ") and "\n" not in str(error.value)
