"""Tools that take their time, or never answer well: the other rows go on."""

import functools
import itertools
import time

import pytest

from arft_jax.data.tokenizer import Tokenizer
from arft_jax.testing import tiny_rollout as tiny
from arft_jax.trajectory import Observation, Status

SEARCH = "<think>look</think><search>red fox</search>"
ANSWER = "<think>seen</think><answer>7</answer>"
TURN_TOKENS, SEGMENT_S = 96, 0.005


@pytest.fixture(scope="module")
def stage():
    return tiny.Stage(
        Tokenizer.tiny(), script_len=320, n_slots=16, group_size=8, max_turns=4, max_tokens=448,
        max_turn_tokens=TURN_TOKENS, extend_rows=16, extend_chunk=64,
    )  # fmt: skip


def _padded(stage, end):
    """A turn of TURN_TOKENS tokens that ends like this."""
    tail = stage.ids(end)
    return [*stage.ids("a") * (TURN_TOKENS - len(tail)), *tail]


def test_tool_latency_is_hidden_behind_the_other_rows(stage, monkeypatch):
    # Of 45 million parameters on two cores a turn takes about 1.6 s; here 24 segments of 5 ms, so tools that take 0.2 s
    # take 15 ms and those of 2 s 150 ms. Four times as many rows as slots, three turns each.
    scripts = [(tiny.tiny_task(i), [_padded(stage, SEARCH)] * 2 + [_padded(stage, ANSWER)]) for i in range(8)]
    decode = stage.engine.sampler.decode

    def slow(*args, **kwargs):
        time.sleep(SEGMENT_S)  # what a segment takes, however busy the machine is with other things
        return decode(*args, **kwargs)

    def wall_s(tools):
        begin = time.perf_counter()
        groups = stage.play(scripts, tools, n_rows=8)
        assert all(t.status is Status.ANSWERED for group in groups for t in group)
        return time.perf_counter() - begin

    instant = tiny.InstantTools(lambda *_: Observation("seen"))
    wall_s(instant)  # compiles
    monkeypatch.setattr(stage.engine, "sampler", stage.engine.sampler._replace(decode=slow))
    pairs = []
    for _ in range(4):  # a machine that is busy with other things may spoil a pair; what is not hidden spoils them all
        waits = itertools.cycle([*[0.015] * 49, 0.15])
        late = tiny.LateTools(functools.partial(_answer_late, waits), longest_s=0.0, n_threads=16)
        try:
            without, with_latency = wall_s(instant), wall_s(late)
        finally:
            late.close()
        assert len(late.calls) == 128
        pairs.append((without, with_latency))
        # a tail in the last wave is the one thing that no other row can hide
        if with_latency < 1.15 * without + 0.15:
            return
    pytest.fail(f"tool latency shows in every pair (instant, late): {pairs}")


def _answer_late(waits, *_):
    time.sleep(next(waits))
    return Observation("seen")


def test_with_every_tool_down_the_run_goes_on_and_the_rows_are_marked(stage):
    scripts = [(tiny.tiny_task(i), [*[SEARCH] * (i % 2), ANSWER]) for i in range(6)]
    groups = stage.play(scripts, tiny.InstantTools(tiny.failing), n_rows=2)
    assert [t.status for group in groups for t in group] == [*[Status.ANSWERED] * 2, *[Status.INFRA] * 2] * 3
