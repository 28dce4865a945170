"""Recorded chains as trajectories: whose tokens are learnt, and that the stream is the sampler's."""

import dataclasses

import numpy as np
import pytest

from arft_jax.config import default_config
from arft_jax.data.synthetic.chains import Chain, ChainTurn
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.models.qwen2_5_vl import positions as mrope
from arft_jax.testing import tiny_rollout as tiny
from arft_jax.tools.bundled import paper_syntax
from arft_jax.train import warm_start
from arft_jax.train.warm_start import chain_trajectories, chain_trajectory
from arft_jax.trajectory import Observation, Status

CODE = "<think>fix</think><code>```python\nx = 1\n```</code>"
TURNS = ("<think>dim</think><problem>{'dark'}</problem>", CODE, "<think>read</think><answer>7</answer>")
SEEN = (Observation("Write code."), Observation("done", (tiny.tiny_image(9, 28, 56),)))


@pytest.fixture(scope="module")
def stage():
    return tiny.Stage(Tokenizer.tiny(), n_slots=1, group_size=1, max_tokens=160, max_turn_tokens=40)


def chain(train, task=None):
    seen = (*SEEN, None)
    return Chain(
        task or tiny.tiny_task(1, "coding", sizes=[(56, 56)]),
        tuple(ChainTurn(text, o, t) for text, o, t in zip(TURNS, seen, train, strict=True)),
    )


@pytest.mark.parametrize("train", [(True, True, False), (False, False, True), (True, True, True), (False, True, True)])
def test_loss_falls_on_exactly_the_tokens_of_trained_turns(stage, train):
    t = chain_trajectory(stage.engine.renderer, chain(train))
    want = np.zeros(len(t.tokens), bool)
    for turn, text, learnt in zip(t.turns, TURNS, train, strict=True):
        assert stage.tokenizer.decode(t.tokens[turn.start : turn.end]) == text == turn.text
        want[turn.start : turn.end] = learnt
    np.testing.assert_array_equal(t.loss_mask, want)
    assert (t.tokens[want] != stage.tokenizer.image_pad_id).all() and (t.sampler_logps == 0).all()


def test_the_stream_is_the_segments_and_the_turns_encoded_once(stage, monkeypatch):
    c, encoded = chain((True, True, True)), []
    pieces = [stage.engine.renderer.prompt(c.task).tokens]
    for text, seen in zip(TURNS, (*SEEN, None), strict=True):
        pieces.append(stage.tokenizer.encode(text))
        if seen is not None:
            pieces.append(stage.engine.renderer.observation(seen).tokens)
    encode = Tokenizer.encode
    monkeypatch.setattr(Tokenizer, "encode", lambda self, text: encoded.append(text) or encode(self, text))
    t = chain_trajectory(stage.engine.renderer, c)
    np.testing.assert_array_equal(t.tokens, np.concatenate(pieces))
    assert [text for text in encoded if text in TURNS] == list(TURNS)
    assert not any("<think>" in text and text not in TURNS for text in encoded)
    grids = [span.grid for span in t.images]
    np.testing.assert_array_equal(
        t.positions, mrope.mrope_positions(t.tokens, grids, stage.tokenizer.image_pad_id, 2)[0]
    )


def test_a_chain_is_the_trajectory_that_the_sampler_would_have_written(stage):
    c = chain((True, True, True))
    replies = iter(SEEN)
    [[sampled]] = stage.play([(c.task, TURNS)], tiny.InstantTools(lambda *_: next(replies)))
    t = chain_trajectory(stage.engine.renderer, c)
    assert sampled.status is t.status is Status.ANSWERED
    for name in ("tokens", "positions", "loss_mask", "completion_mask", "observation_mask"):
        np.testing.assert_array_equal(getattr(t, name), getattr(sampled, name), err_msg=name)
    assert [(s.sha256, s.start, s.n, s.grid) for s in t.images] == [
        (s.sha256, s.start, s.n, s.grid) for s in sampled.images
    ]
    for a, b in zip(t.turns, sampled.turns, strict=True):
        assert (a.text, a.action, a.start, a.end, a.call) == (b.text, b.action, b.start, b.end, b.call)
        if b.observation is None:
            assert a.observation is None
            continue
        assert (a.observation.text, a.observation.status) == (b.observation.text, b.observation.status)
        for shown, other in zip(a.observation.images, b.observation.images, strict=True):
            assert shown.name == other.name
            np.testing.assert_array_equal(shown.pixels, other.pixels)
    assert t.turns[1].action.tool == "python" and t.answer == "7"


def test_chains_are_cut_behind_the_last_learnt_turn(stage):
    [t] = chain_trajectories(stage.engine.renderer, [chain((True, True, False))], 160)
    assert len(t.turns) == 2 and len(t.tokens) == t.turns[-1].end and t.loss_mask[-1]
    assert len(t.images) == 1  # the second turn's image would have come behind it


def test_chains_that_do_not_fit_are_an_error_but_for_one_in_a_hundred(stage):
    good = [chain((True, True, True), tiny.tiny_task(i, "coding")) for i in range(100)]
    long_task = dataclasses.replace(tiny.tiny_task(500, "coding"), question="word " * 60)
    bad = chain((True, True, True), long_task)
    longest = len(chain_trajectory(stage.engine.renderer, bad).tokens)
    fit = max(len(chain_trajectory(stage.engine.renderer, c).tokens) for c in good)
    assert len(chain_trajectories(stage.engine.renderer, [*good, bad], fit)) == 100
    with pytest.raises(
        ValueError,
        match=rf"got 2 of 102 too long, the longest {longest} tokens, max_tokens={fit} \(config.rollout.max_tokens\)",
    ):
        chain_trajectories(stage.engine.renderer, [*good, bad, bad], fit)


def test_own_chains_are_learnt_with_those_of_the_mini_tasks_or_alone(monkeypatch):
    config = default_config()
    config.warm_start.update(n_chains=1, n_practice=6)
    monkeypatch.setattr(warm_start, "record_chains", lambda tasks, begin, seed, syntax: list(tasks))
    task, own, syntax = tiny.tiny_task(1), [chain((True, True, True))], paper_syntax()
    photos = {"photos": {"train": [task], "test": []}}
    assert warm_start.warm_start_chains(config, photos, own, None, syntax) == own
    chains = warm_start.warm_start_chains(
        config, photos | {"mini_search": {"train": [task] * 2}}, own, None, paper_syntax()
    )
    assert len(chains) == 6 + 1 + 1 and chains[6:] == [task, *own]  # practice, recorded, own
    assert warm_start.warm_start_chains(config, photos, (), None, syntax) == []
