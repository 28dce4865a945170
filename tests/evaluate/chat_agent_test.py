"""The agent loop over a conversation: the same turns, statuses and prompts as a rollout's, and what only servers do."""

import asyncio
import base64
import dataclasses
import io

import jax
import numpy as np
import PIL.Image
import pytest

from arft_jax.data.images import ImageProcessor
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.evaluate.chat_agent import Asking, cut, play, restored
from arft_jax.io.trajectories import load_trajectories, save_trajectories
from arft_jax.remote.costs import Usage
from arft_jax.remote.faults import Meaning, Refused, Unanswered
from arft_jax.remote.replies import Reply
from arft_jax.report.trajectories import trajectories_page
from arft_jax.rollout.request import Request
from arft_jax.rollout.rerender import rerendered
from arft_jax.syntax.hermes import HermesSyntax
from arft_jax.syntax.plain import PlainSyntax
from arft_jax.testing import tiny_rollout as tiny
from arft_jax.tools.bundled import BUNDLED, paper_syntax
from arft_jax.trajectory import Observation, Status, ToolStatus

THINK = "<think>t</think>"
SEARCH, ANSWER = f"{THINK}<search>red fox</search>", f"{THINK}<answer>7</answer>"
PROCESSOR = ImageProcessor(28 * 28, 56 * 56)


def asking(**options):
    limits = dataclasses.replace(tiny.LIMITS, max_turns=3, **options.pop("limits", {}))
    usual = dict(syntax=paper_syntax(), limits=limits, processor=PROCESSOR)
    return Asking(lambda task: tiny.SYSTEM[task.kind], lambda task: task.question, **usual | options)


class Script:
    """Says one reply after the other; texts are replies that the model ended. ``messages``: all that it was shown."""

    def __init__(self, *replies):
        self._replies, self.messages = list(replies), []

    async def complete(self, messages, turn):
        assert turn == len(self.messages) + 1
        self.messages.append(list(messages))
        reply = self._replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return Reply(reply) if isinstance(reply, str) else reply


def run(replies, task=None, tools=None, **options):
    script = Script(*replies)
    tools = tools or tiny.InstantTools(lambda *call: Observation("seen"))
    task = task or tiny.tiny_task(1)
    return asyncio.run(play(task, script.complete, tools, asking(**options))), script


# ------------------------------------------------------------- as in a rollout


@pytest.fixture(scope="module")
def stage():
    return tiny.Stage(
        Tokenizer.tiny(), n_slots=2, group_size=2, max_turns=3, max_turn_tokens=48, max_tokens=320, extend_chunk=32
    )


def picture(task, action, image):
    return Observation("found", (tiny.tiny_image(7, 30, 90), tiny.tiny_image(8, 4, 900)))  # the bank refuses a sliver


def a_fault(task, action, image):
    return Observation("no route", (), ToolStatus.INFRA, 0.5)


TURNS = {
    "an answer": [ANSWER],
    "a call and an answer": [SEARCH, ANSWER],
    "more behind the action": [SEARCH + "<information>made up</information>" + ANSWER, ANSWER],
    "no answer in three turns": [SEARCH, SEARCH, SEARCH],
    "no action": [f"{THINK}I do not know"],
    "two actions": [f"{THINK}<search>a<answer>b</answer>"],
    "an empty answer": [f"{THINK}<answer> </answer>"],
    "nothing": [""],
}


def chatml(messages, vision):
    """The text that Qwen2.5-VL's chat template makes of messages."""
    text = ""
    for message in messages:
        parts = message["content"]
        parts = [{"type": "text", "text": parts}] if isinstance(parts, str) else parts
        body = "".join(part["text"] if part["type"] == "text" else vision for part in parts)
        text += f"<|im_start|>{message['role']}\n{body}<|im_end|>\n"
    return text + "<|im_start|>assistant\n"


@pytest.mark.parametrize("tool", [picture, a_fault])
@pytest.mark.parametrize("context", ["append", "rerender"])
@pytest.mark.parametrize("case", TURNS)
def test_a_conversation_is_a_rollout_in_messages(stage, case, context, tool):
    task, turns = tiny.tiny_task(1, sizes=((28, 28), (56, 30))), TURNS[case]
    played, script = run(turns, task, tiny.InstantTools(tool), context=context)
    sampled = [cut(turn, paper_syntax().stops) for turn in turns]  # a sampler writes nothing behind a stop
    said = [stage.ids(turn) + [stage.tokenizer.eos_id] * (not stopped) for turn, stopped in sampled]
    scripts = [(task, said)]
    if context == "rerender":
        seen = [played.turns[:n] for n in range(len(played.turns))]
        scripts = [(rerendered(task, before, asking().can_show), [said[n]]) for n, before in enumerate(seen)]
    options = dict(rng=jax.random.key(0), temperature=0.0, max_turns=3, context=context)
    native = stage.engine.run(stage.params(scripts), [Request(task, 0, 1)], tiny.InstantTools(tool), **options)[0][0]
    assert played.status is native.status and played.answer == native.answer
    for mine, theirs in zip(played.turns, native.turns, strict=True):
        assert (mine.text, mine.action, mine.in_form) == (theirs.text, theirs.action, theirs.in_form)
        assert (mine.observation is None) == (theirs.observation is None)
        if mine.observation is not None:
            assert mine.observation.text == theirs.observation.text
            assert [image.name for image in mine.observation.images] == [i.name for i in theirs.observation.images]
    # The last prompt, token by token: what came before the last turn.
    before = native.tokens[: native.turns[-1].start].tolist()
    pads = stage.tokenizer.image_pad_id
    merged = [t for i, t in enumerate(before) if t != pads or before[i - 1] != pads]  # one pad an image
    vision = "<|vision_start|><|image_pad|><|vision_end|>"
    assert stage.tokenizer.decode(merged) == chatml(script.messages[-1], vision)


def test_pictures_are_sent_as_the_policy_sees_them():
    task = tiny.tiny_task(1, sizes=((100, 150),))
    for resized, size in ((True, (28, 56)), (False, (100, 150))):
        _, script = run([ANSWER], task, resized=resized, detail="low")
        [system, user] = script.messages[0]
        assert system == {"role": "system", "content": "Search."}
        image, text = user["content"]
        assert text == {"type": "text", "text": "question 1?"} and image["image_url"]["detail"] == "low"
        head, _, data = image["image_url"]["url"].partition(",")
        assert head == "data:image/png;base64"
        pixels = np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(data))))
        assert pixels.shape == (*size, 3)
        want, _ = PROCESSOR(task.images[0].pixels)
        np.testing.assert_array_equal(PROCESSOR(pixels)[0], want)  # the server's own resizing changes nothing more


@pytest.mark.parametrize("limits", [dict(max_images=2), dict(max_image_pixels=2 * 28 * 28)])
def test_images_end_the_trajectory_at_their_limits(limits):
    played, _ = run([SEARCH, ANSWER], tools=tiny.InstantTools(lambda *call: Observation("", (tiny.tiny_image(3),))))
    assert played.status is Status.ANSWERED
    two = Observation("", (tiny.tiny_image(3), tiny.tiny_image(4)))
    played, _ = run([SEARCH, ANSWER], tools=tiny.InstantTools(lambda *call: two), limits=limits)
    assert played.status is Status.IMAGES and played.turns[0].observation is not None


def test_what_is_wrong_with_a_call_is_told_in_the_syntax():
    bad = '<tool_call>\n{"name": "nothing", "arguments": {}}\n</tool_call>'
    syntax = HermesSyntax([BUNDLED["search"].spec])
    played, script = run([bad, "7"], syntax=syntax)
    assert played.status is Status.ANSWERED and played.turns[0].observation.status is ToolStatus.ERROR
    said = script.messages[1][-1]
    assert said["role"] == "user" and said["content"].startswith("<tool_response>\nThere is no tool of that name.")
    assert script.messages[1][-2] == {"role": "assistant", "content": bad}


# ------------------------------------------------------------- what servers do


@pytest.mark.parametrize(
    "reply, status, text",
    [
        (Reply(ANSWER, is_cut=True), Status.ANSWERED, ANSWER),  # the tag is whole: nothing of it was cut
        (Reply(f"{THINK}<answer>7", is_cut=True), Status.TURN_TOKENS, f"{THINK}<answer>7"),
        (Reply("", is_cut=True), Status.TURN_TOKENS, ""),
        (Reply(f"{THINK}<answer>7"), Status.NO_ACTION, f"{THINK}<answer>7"),
        (Reply("", refusal="I can't help with that."), Status.NO_ACTION, ""),
        (Reply(ANSWER, refusal="the content filter"), Status.NO_ACTION, ANSWER),
    ],
)
def test_an_end_that_is_the_models_own_is_scored(reply, status, text):
    played, _ = run([reply])
    assert played.status is status and played.turns[0].text == text
    assert ("reason" in played.info) is (reply.refusal is not None)
    assert (played.answer is None) is (status is not Status.ANSWERED)


@pytest.mark.parametrize(
    "error, status, reason",
    [
        (Refused(Meaning.LENGTH, "status 400: too long"), Status.TOKENS, "the server declined: status 400: too long"),
        (Refused(Meaning.CONTENT, "flagged"), Status.NO_ACTION, "the server declined: flagged"),
        (Refused(Meaning.OTHER, "status 400"), Status.INFRA, "the server declined: status 400"),
        (Unanswered("status 503 (6 tries)"), Status.INFRA, "the server did not answer: status 503 (6 tries)"),
    ],
)
def test_a_request_that_is_not_served_ends_the_item_with_its_reason(error, status, reason):
    played, _ = run([SEARCH, error])
    assert played.status is status and played.info["reason"] == reason and len(played.turns) == 1


def test_a_thought_that_the_server_takes_out_is_part_of_the_turn():
    trajectory, asked = run([Reply("<search>fox</search>", thought="x"), Reply("<answer>7</answer>", thought="y")])
    assert [turn.text for turn in trajectory.turns] == [
        "<think>x</think>\n<search>fox</search>",
        "<think>y</think>\n<answer>7</answer>",
    ]
    assert trajectory.status is Status.ANSWERED and all(turn.in_form for turn in trajectory.turns)


def test_stop_strings_that_the_server_leaves_out_are_put_back():
    replies = [Reply(f"{THINK}<search>fox", stop="</search>", says_stop=True), Reply(f"{THINK}<answer>7")]
    played, script = run(replies, sends_stops=True)
    assert played.status is Status.ANSWERED and played.turns[0].call.arguments == {"query": "fox"}
    assert script.messages[1][2] == {"role": "assistant", "content": f"{THINK}<search>fox</search>"}
    assert run([Reply(f"{THINK}<answer>7", says_stop=True)], sends_stops=True)[0].status is Status.NO_ACTION
    assert run([Reply(f"{THINK}<answer>7", is_cut=True)], sends_stops=True)[0].status is Status.TURN_TOKENS
    stops = ("</a>", "</b>")
    assert restored(Reply("x"), stops) == ("x", False) and restored(Reply("<a>1</a><b>2"), stops)[0].endswith("</b>")
    assert cut("1</b>2</a>", stops) == ("1</b>", True) and cut("x", stops) == ("x", False)


def test_a_plain_question_is_answered_in_one_turn():
    options = dict(syntax=PlainSyntax(), system=lambda task: "", question=lambda task: f"{task.question} Shortly.")
    script = Script("Seven.")
    task, plain = tiny.tiny_task(1), dataclasses.replace(asking(), **options)
    played = asyncio.run(play(task, script.complete, tiny.InstantTools(tiny.failing), plain))
    assert played.status is Status.ANSWERED and played.answer == "Seven."
    [[user]] = script.messages
    assert user["content"][1]["text"] == "question 1? Shortly."


def test_a_trajectory_without_tokens_is_kept_and_shown(tmp_path):
    usage = Usage(prompt_tokens=90, completion_tokens=10)
    played, _ = run([Reply(SEARCH, usage=usage, model="m-1"), Reply(ANSWER, usage=usage, model="m-1")])
    assert played.info == {"model": "m-1", "usage": dataclasses.asdict(usage + usage)}
    save_trajectories(tmp_path / "t", [played])
    [loaded] = load_trajectories(tmp_path / "t")
    assert len(loaded.tokens) == 0 and loaded.positions.shape == (3, 0) and not loaded.loss_mask.size
    assert [turn.text for turn in loaded.turns] == [SEARCH, ANSWER]
    assert "180 tokens in, 20 out, in all of its requests" in trajectories_page("x", [loaded])


def test_what_the_tools_kept_is_closed_however_a_conversation_ends():
    closed = []

    class Kept:
        def close(self):
            closed.append(1)

    class Tools(tiny.InstantTools):
        def submit(self, call, context):
            context.keep("search", Kept)
            return super().submit(call, context)

    tools = Tools(lambda *call: Observation("seen"))
    run([SEARCH, ANSWER], tools=tools)
    with pytest.raises(ZeroDivisionError):
        run([SEARCH, ZeroDivisionError()], tools=tools)
    assert closed == [1, 1]
