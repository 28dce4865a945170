"""Rollouts in the Hermes syntax with a scripted policy: calls, answers, what malformed calls are told; guests in tags."""

import numpy as np
import pytest

from arft_jax.data import chat
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.protocol import Malformed, ToolCall
from arft_jax.rewards.form import format_score
from arft_jax.syntax.hermes import HermesSyntax
from arft_jax.syntax.spec import ToolSpec
from arft_jax.syntax.tags import TagSyntax
from arft_jax.testing import tiny_rollout as tiny
from arft_jax.tools.bundled import BUNDLED
from arft_jax.trajectory import Observation, Status, ToolStatus

SIZES = dict(n_slots=4, group_size=2, max_turns=4, max_turn_tokens=128, max_tokens=512, extend_chunk=32)
HERMES = HermesSyntax([tool.spec for tool in BUNDLED.values()])
ZOOM = ToolSpec("zoom", "", {"properties": {"factor": {"type": "number"}}, "required": ["factor"]}, "zoom")
TAGS = TagSyntax([*(tool.spec for tool in BUNDLED.values()), ZOOM])
SEARCH = HERMES.write(ToolCall("search", {"query": "red fox"}))


@pytest.fixture(scope="module")
def stage():
    return tiny.Stage(Tokenizer.tiny(), syntax=HERMES, **SIZES)


@pytest.fixture(scope="module")
def tags():
    return tiny.Stage(Tokenizer.tiny(), syntax=TAGS, **SIZES)


def say(text="seen", *images):
    return tiny.InstantTools(lambda task, call, image: Observation(text, images))


def ended(stage, text):
    """A turn that its end token ends."""
    return [*stage.ids(text), stage.tokenizer.eos_id]


def play(stage, turns, tools=None, **kwargs):
    [[t]] = stage.play([(tiny.tiny_task(1), turns)], tools or say(), **kwargs)
    return t


def test_a_call_is_served_and_the_turn_without_a_call_is_the_answer(stage):
    tools = say("Ann is red.", tiny.tiny_image(5))
    t = play(stage, [SEARCH, ended(stage, "<think>so</think>\nIt is 7.")], tools)
    assert (t.status, t.answer, len(t.turns)) == (Status.ANSWERED, "It is 7.", 2)
    assert [call for _, call, _ in tools.calls] == [ToolCall("search", {"query": "red fox"})]
    assert all(turn.in_form for turn in t.turns) and format_score(t) == 1.0
    assert t.tokens[-1] == stage.tokenizer.eos_id and t.loss_mask[-1]


def test_a_reply_stands_in_its_frame_behind_the_token_that_closed_the_call(stage):
    image = tiny.tiny_image(5)
    t = play(stage, [SEARCH, ended(stage, "7")], say("Ann is red.", image))
    between = t.tokens[t.turns[0].end : t.turns[1].start]
    expected = chat.observation_segment(
        stage.tokenizer, stage.engine.renderer.patches.processor, Observation("Ann is red.", (image,)), HERMES.reply
    )
    np.testing.assert_array_equal(between, expected.tokens)
    text = stage.tokenizer.decode(between)
    assert text.startswith("<|im_end|>\n<|im_start|>user\n<tool_response>\n<|vision_start|>")
    assert text.endswith("Ann is red.\n</tool_response><|im_end|>\n<|im_start|>assistant\n")


def test_a_malformed_call_is_told_and_the_trajectory_goes_on(stage):
    bad = ["<tool_call>\n{search}\n</tool_call>", SEARCH.replace("search", "paint"), SEARCH.replace("query", "words")]
    tools = say()
    t = play(stage, [*bad, ended(stage, "7")], tools)
    assert t.status is Status.ANSWERED and not tools.calls
    told = [turn.observation for turn in t.turns[:3]]
    assert [seen.status for seen in told] == [ToolStatus.ERROR] * 3
    assert [seen.text.split(".")[0] for seen in told] == [
        'A call must be a JSON object {"name": ', "There is no tool of that name", "There is no argument 'words'",
    ]  # fmt: skip
    assert all(isinstance(turn.action, Malformed) and not turn.in_form for turn in t.turns[:3])
    assert told[1].text in stage.tokenizer.decode(t.tokens[t.turns[1].end : t.turns[2].start])
    assert format_score(t) == 0.0


def test_malformed_calls_count_as_turns(stage):
    t = play(stage, ["<tool_call></tool_call>"] * 6)
    assert t.status is Status.TURN_LIMIT and len(t.turns) == 4 and t.turns[-1].observation is None


def test_a_turn_that_its_budget_cut_is_no_answer(stage):
    t = play(stage, [stage.ids("a") * 200])
    assert t.status is Status.TURN_TOKENS and t.answer is None and isinstance(t.turns[0].action, Malformed)
    cut = stage.ids(SEARCH)[:-1] + stage.ids(" a") * 200  # a call that is not closed
    assert play(stage, [cut]).status is Status.TURN_TOKENS


@pytest.mark.parametrize("text", ["", "<think>only</think>", "<tool_call>\n{}"])
def test_an_end_without_an_answer_or_a_closed_call_ends_the_trajectory(stage, text):
    t = play(stage, [ended(stage, text)])
    assert t.status is Status.NO_ACTION and t.answer is None


def test_in_the_papers_syntax_guests_are_told_and_the_papers_tools_are_not(tags):
    answer = "<think>a</think><answer>7</answer>"
    t = play(tags, ["<think>a</think><zoom>twice</zoom>", '<think>a</think><zoom>{"factor": 2}</zoom>', answer])
    assert t.status is Status.ANSWERED
    assert [turn.observation.text for turn in t.turns[:2]] == ["The arguments must be one JSON object.", "seen"]
    assert t.turns[1].call == ToolCall("zoom", {"factor": 2})
    t = play(tags, ["<think>a</think><code>twice</code>", answer])
    assert t.status is Status.MALFORMED and len(t.turns) == 1
    assert t.turns[0].action.reason and not t.turns[0].action.tell and t.turns[0].observation is None
