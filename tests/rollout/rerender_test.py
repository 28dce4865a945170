"""A prompt of its own for each turn: what it says, what the record keeps, and the same words as a fresh rollout."""

import dataclasses

import jax
import numpy as np
import pytest

from arft_jax.data.tokenizer import Tokenizer
from arft_jax.rollout.request import Request
from arft_jax.rollout.rerender import rerendered
from arft_jax.testing import tiny_rollout as tiny
from arft_jax.testing.babble import World, reply
from arft_jax.testing.toolboxes import code_call
from arft_jax.trajectory import Observation, Status, Task, Turn

SEARCH = "<think>look</think><search>red fox</search>"
CODE = "<think>fix</think><code>```python\nx = 1\n```</code>"
ANSWER = "<think>seen</think><answer>7</answer>"


@pytest.fixture(scope="module")
def stage():
    return tiny.Stage(Tokenizer.tiny(), n_slots=4, group_size=2, max_turns=3, max_turn_tokens=96, max_tokens=224)


def play(stage, scripts, task, tools, **options):
    """One task; the scripted policy knows each rendered prompt as a task of its own."""
    options = dict(rng=jax.random.key(0), temperature=0.0, context="rerender") | options
    [[t]] = stage.engine.run(stage.params(scripts), [Request(task, 0, 1)], tools, **options)
    return t


def test_each_turn_is_asked_with_the_question_the_chain_and_the_newest_image(stage):
    task, new = tiny.tiny_task(1, "coding", sizes=[(28, 28), (28, 56)]), tiny.tiny_image(5, 56, 28)
    replies = [Observation("fixed", (new,), seconds=1.5), Observation("no picture", seconds=0.25)]
    tools = tiny.InstantTools(lambda *_: replies[len(tools.calls) - 1])
    once = f"{task.question}\n{CODE}\nfixed"
    prompts = [
        task,
        Task("", "coding", once, (new, task.images[1]), ()),
        Task("", "coding", f"{once}\n{CODE}\nno picture", (new, task.images[1]), ()),
    ]
    t = play(stage, list(zip(prompts, [[CODE], [CODE], [ANSWER]], strict=True)), task, tools)
    assert (t.status, t.answer, [turn.text for turn in t.turns]) == (Status.ANSWERED, "7", [CODE, CODE, ANSWER])
    assert [turn.observation and turn.observation.text for turn in t.turns] == ["fixed", "no picture", None]
    assert tools.spent == [0.0, 1.5]
    # the record is the last context: its prompt, its turn, its images
    last = stage.engine.renderer.prompt(prompts[-1]).tokens
    np.testing.assert_array_equal(t.tokens, [*last, *stage.ids(ANSWER)])
    np.testing.assert_array_equal(t.loss_mask, np.arange(len(t.tokens)) >= len(last))
    assert t.prompt_len == len(last) and [(turn.start, turn.end) for turn in t.turns[:2]] == [(0, 0)] * 2
    assert (t.turns[2].start, t.turns[2].end) == (len(last), len(t.tokens))
    assert [span.sha256 for span in t.images] == [new.sha256, task.images[1].sha256]
    assert len(t.positions[0]) == len(t.sampler_logps) == len(t.versions) == len(t.tokens)


def test_a_chain_that_no_longer_fits_ends_with_the_context_that_did(stage):
    task = tiny.tiny_task(1)
    long = " a" * (stage.engine.limits.max_tokens - len(stage.engine.renderer.prompt(task).tokens))
    t = play(stage, [(task, [SEARCH])], task, tiny.InstantTools(lambda *_: Observation(long)))
    assert t.status is Status.TOKENS and len(t.tokens) == t.turns[0].end and t.turns[0].observation.text == long


def test_the_image_budget_is_that_of_one_context(stage, monkeypatch):
    monkeypatch.setattr(stage.engine, "limits", dataclasses.replace(stage.engine.limits, max_images=1))
    task, new = tiny.tiny_task(1, "coding"), tiny.tiny_image(5)
    told = Task("", "coding", f"{task.question}\n{CODE}\nfixed", (new,), ())
    tools = tiny.InstantTools(lambda *_: Observation("fixed", (new,)))
    assert play(stage, [(task, [CODE]), (told, [ANSWER])], task, tools).status is Status.ANSWERED


def test_a_picture_that_no_prompt_can_hold_leaves_the_one_before(stage):
    sliver, new = tiny.tiny_image(1, 2, 1000), tiny.tiny_image(2)
    assert not stage.engine.renderer.can_show(sliver) and stage.engine.renderer.can_show(new)
    task = tiny.tiny_task(1, "coding")
    turns = [Turn("a", code_call("x"), 0, 0, Observation("", images)) for images in ((new,), (sliver,))]
    shown = rerendered(task, turns, stage.engine.renderer.can_show)
    assert [image.sha256 for image in shown.images] == [new.sha256] and shown.question == f"{task.question}\na\na"


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(temperature=1.0), r"temperature must be 0 where context is rerender: got 1.0 \(config.rollout.context\)"),
        (dict(context="fresh"), r"context must be append or rerender: got 'fresh' \(config.rollout.context\)"),
    ],
    ids=str,
)
def test_what_cannot_be_rerendered_is_refused(stage, options, message):
    task = tiny.tiny_task(1)
    with pytest.raises(ValueError, match=message):
        play(stage, [(task, [ANSWER])], task, tiny.InstantTools(reply), **options)


def test_a_rerendered_turn_is_what_a_fresh_rollout_of_its_prompt_says():
    world = World()
    requests = [Request(task, i, 1) for i, task in enumerate(world.tasks)]
    groups = world.run(world.base, requests, temperature=0.0, context="rerender")
    later = [t for [t] in groups if len(t.turns) > 1]
    assert len(later) >= 2 and any(len(t.turns) == 3 for t in later)
    for t in later:
        prompt = rerendered(t.task, t.turns[:-1], world.base.renderer.can_show)
        [[fresh]] = world.run(world.base, [Request(prompt, 0, 1)], temperature=0.0, max_turns=1)
        np.testing.assert_array_equal(t.tokens, fresh.tokens)
        np.testing.assert_array_equal(t.positions, fresh.positions)
        np.testing.assert_allclose(t.sampler_logps, fresh.sampler_logps, rtol=0, atol=1e-5)
