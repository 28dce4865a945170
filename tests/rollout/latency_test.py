"""Tools that take their time, or never answer well: the other rows go on."""

import concurrent.futures
import functools
import time

import numpy as np
import pytest

from arft_jax.data.tokenizer import Tokenizer
from arft_jax.rollout.scheduler import Scheduler
from arft_jax.testing import tiny_rollout as tiny
from arft_jax.trajectory import Observation, Status

SEARCH = "<think>look</think><search>red fox</search>"
ANSWER = "<think>seen</think><answer>7</answer>"
# A turn of 96 tokens is 24 decode calls, 4.8 s. A tool of 0.2 s keeps its row from 2 or 3 of them (the one that was
# dispatched ahead, and those until its answer is seen), so that turns much shorter than 4 s hide less.
TURN_TOKENS, CALL_S = 96, 0.2
MEDIAN_S, TAIL_S, ONE_IN = 0.2, 2.0, 20
MOST = 1.15  # wall time with late tools by that with instant ones


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


def _scripts(stage):
    """64 rows of three turns for 16 slots, with two calls each."""
    return [(tiny.tiny_task(i), [_padded(stage, SEARCH)] * 2 + [_padded(stage, ANSWER)]) for i in range(8)]


def _waits(seed):
    """Seconds of 140 calls: of every twenty one, wherever it stands, is a tail."""
    rng, twenty = np.random.default_rng(seed), [MEDIAN_S] * (ONE_IN - 1) + [TAIL_S]
    return iter(np.concatenate([rng.permutation(twenty) for _ in range(7)]).tolist())


class Clock:
    """Time as it would be if a decode call took CALL_S, a tool what it takes, and the host nothing.

    The device works off decode calls in their order; the host goes on where the report that it reads is there, or the
    tool that it waits for. Nothing sleeps, so that no other work on the machine shows.
    """

    def __init__(self, stage, patch, waits):
        self.now, self._free, self._ends, self._due, self._waits = 0.0, 0.0, [], [], waits
        decode, read, wait = stage.engine.slots.sampler.decode, Scheduler.read_report, concurrent.futures.wait

        def timed_decode(*args, **kwargs):
            self._free = max(self._free, self.now) + CALL_S
            self._ends.append(self._free)
            return decode(*args, **kwargs)

        def timed_read(scheduler, number, report):
            self.now = max(self.now, self._ends[number])
            read(scheduler, number, report)

        def timed_wait(futures, timeout, return_when):
            if timeout is None:  # nothing else can go on
                self.now = max(self.now, min(due for due, _ in self._due))
            for _, future in (pair for pair in self._due if pair[0] <= self.now):
                future.set_result(Observation("seen"))
            self._due = [pair for pair in self._due if pair[0] > self.now]
            return wait(futures, timeout=0, return_when=return_when)

        patch.setattr(stage.engine.slots, "sampler", stage.engine.slots.sampler._replace(decode=timed_decode))
        patch.setattr(Scheduler, "read_report", timed_read)
        patch.setattr(concurrent.futures, "wait", timed_wait)

    def submit(self, *_):
        future = concurrent.futures.Future()
        self._due.append((self.now + next(self._waits), future))
        return future


def _wall_s(stage, tools, clock=time.perf_counter):
    begin = clock()
    groups = stage.play(_scripts(stage), tools, n_rows=8)
    assert all(t.status is Status.ANSWERED and len(t.turns) == 3 for group in groups for t in group)
    return clock() - begin


def _wall_by_clock(stage, waits):
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock(stage, patch, waits)
        return _wall_s(stage, clock, lambda: clock.now)


def test_tool_latency_is_hidden_behind_the_other_rows(stage):
    instant = _wall_by_clock(stage, iter([0.0] * 140))
    assert instant == pytest.approx(64 / 16 * 3 * TURN_TOKENS / 4 * CALL_S)  # 57.6 s: every slot is always at work
    ratios = sorted(_wall_by_clock(stage, _waits(seed)) / instant for seed in range(7))
    print("ratios", ratios)
    assert 1.0 < ratios[3] <= MOST, ratios


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_tool_latency_is_hidden_behind_the_other_rows_in_true_seconds(stage, monkeypatch):
    decode = stage.engine.slots.sampler.decode

    def slow(*args, **kwargs):
        time.sleep(CALL_S)  # what a decode call takes, however busy the machine is with other things
        return decode(*args, **kwargs)

    instant = tiny.InstantTools(lambda *_: Observation("seen"))
    _wall_s(stage, instant)  # compiles
    monkeypatch.setattr(stage.engine.slots, "sampler", stage.engine.slots.sampler._replace(decode=slow))
    ratios = []
    for seed in range(3):
        late = tiny.LateTools(functools.partial(_answer_late, _waits(seed)), longest_s=0.0, n_threads=16)
        try:
            without, with_latency = _wall_s(stage, instant), _wall_s(stage, late)
        finally:
            late.close()
        assert len(late.calls) == 128
        ratios.append(with_latency / without)
    print("ratios", ratios)
    assert sorted(ratios)[1] <= MOST, ratios


def _answer_late(waits, *_):
    time.sleep(next(waits))
    return Observation("seen")


def test_with_every_tool_down_the_run_goes_on_and_the_rows_are_marked(stage):
    scripts = [(tiny.tiny_task(i), [*[SEARCH] * (i % 2), ANSWER]) for i in range(6)]
    groups = stage.play(scripts, tiny.InstantTools(tiny.failing), n_rows=2)
    assert [t.status for group in groups for t in group] == [*[Status.ANSWERED] * 2, *[Status.INFRA] * 2] * 3
