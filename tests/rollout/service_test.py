"""Requests of many callers on one set of slots: what each samples is its own, whoever comes or goes beside it."""

import dataclasses
import threading

import jax
import numpy as np
import pytest

from arft_jax.rollout.request import OwnTerms
from arft_jax.rollout.service import Closed, Full, Service
from arft_jax.steps.state import RUNNING
from arft_jax.testing import tiny_rollout as tiny
from arft_jax.testing.babble import World, assert_same, flat, reply


@pytest.fixture(scope="module")
def world():
    return World()


class Waiting:
    """Waits for a request; ends a turn where ``cut`` says so."""

    def __init__(self, cut=lambda tokens: None):
        self.done, self.rows, self.error, self.cut, self.grew = threading.Event(), None, None, cut, threading.Event()

    def grown(self, row):
        self.grew.set()
        return self.cut(row.turn_tokens)

    def ended(self, rows):
        self.rows = rows
        self.done.set()

    def failed(self, error):
        self.error = error
        self.done.set()

    def get(self):
        assert self.done.wait(120)
        if self.error:
            raise self.error
        return self.rows


class Playing:
    """A service and the thread that plays it."""

    def __init__(self, world, tools=None, max_waiting=64):
        self.service = Service(world.engine(), world.params, tools or tiny.InstantTools(reply), max_waiting)
        self.thread = threading.Thread(target=self.service.run)

    def __enter__(self):
        self.thread.start()
        return self.service

    def __exit__(self, *_):
        self.service.close()
        self.thread.join(120)
        assert not self.thread.is_alive() and self.service.fault is None
        assert self.service.n_busy == self.service.n_waiting == 0


def own(world, request, seed, temperature=1.0, top_p=1.0, **limits):
    terms = OwnTerms(dataclasses.replace(world.base.limits, **limits), temperature, top_p)
    return dataclasses.replace(request, rng=np.array([3, seed], np.uint32), own=terms)


def apart(world, request, temperature=1.0):
    """The same request in a rollout of its own."""
    alone = dataclasses.replace(request, own=None)
    engine, tools = world.base, tiny.InstantTools(reply)
    return engine.run(world.params, [alone], tools, rng=jax.random.key(0), temperature=temperature)[0]


def test_each_request_is_played_as_if_it_were_alone_at_its_own_temperature(world):
    requests = [own(world, request, seed, [1.0, 0.0][seed % 2]) for seed, request in enumerate(world.requests)]
    listeners = [Waiting() for _ in requests]
    with Playing(world) as service:
        for request, listener in zip(requests, listeners, strict=True):
            service.submit(request, listener)
        rows = [listener.get() for listener in listeners]
    expected = [apart(world, request, request.own.temperature) for request in requests]
    assert_same(flat(rows), flat(expected))
    assert service.counts.n_ended == len(requests)
    assert service.counts.n_sampled == sum(int(row.loss_mask.sum()) for row in flat(rows))


def test_a_request_that_is_left_frees_its_slots_and_changes_no_other(world):
    stay, go = own(world, world.requests[0], 1), own(world, world.requests[1], 2, max_turn_tokens=100)
    with Playing(world) as service:
        leaving, staying, late = Waiting(), Waiting(), Waiting()
        ticket = service.submit(go, leaving)
        service.submit(stay, staying)
        assert leaving.grew.wait(120)
        service.leave(ticket)
        service.submit(own(world, world.requests[2], 3), late)
        rows = staying.get() + late.get()
    assert not leaving.done.is_set() and service.counts.n_left == 1
    assert_same(rows, apart(world, own(world, world.requests[0], 1)) + apart(world, own(world, world.requests[2], 3)))


def test_rows_that_were_left_or_cut_stand_still_on_the_device(world):
    playing = Playing(world)
    slots = playing.service._engine.slots
    slots.obey(tiny.rules_with_stops(world.tokenizer, ["no turn ends so"]))
    with playing as service:
        leaving, cut, late = Waiting(), Waiting(lambda tokens: 2 if len(tokens) >= 2 else None), Waiting()
        ticket = service.submit(own(world, world.requests[0], 2, max_turn_tokens=90, max_turns=1), leaving)
        assert leaving.grew.wait(120)
        service.leave(ticket)
        service.submit(own(world, world.requests[1], 3, max_turn_tokens=90, max_turns=1), cut)
        cut.get()
        service.submit(dataclasses.replace(own(world, world.requests[2], 4, max_turn_tokens=9), n_rows=1), late)
        late.get()
    assert not np.any(np.asarray(slots.state.status) == RUNNING)


def test_a_turn_ends_where_its_listener_says_and_the_slot_serves_the_next_request(world):
    whole = apart(world, own(world, world.requests[3], 4))
    with Playing(world) as service:
        cut = Waiting(lambda tokens: 2 if len(tokens) >= 2 else None)
        service.submit(own(world, world.requests[3], 4, max_turns=1), cut)
        rows = cut.get()
        after = Waiting()
        service.submit(own(world, world.requests[3], 4), after)
        assert_same(after.get(), whole)
    for row, reference in zip(rows, whole, strict=True):
        first = reference.turns[0]
        n = min(2, first.end - first.start)
        np.testing.assert_array_equal(row.tokens, reference.tokens[: first.start + n])


def test_too_many_and_too_late_are_refused_and_a_prompt_that_does_not_fit_fails_alone(world):
    playing = Playing(world, max_waiting=2)
    ok = own(world, world.requests[0], 5)
    first, second = Waiting(), Waiting()
    playing.service.submit(ok, first)  # nobody plays yet
    playing.service.submit(own(world, world.requests[0], 5, max_tokens=3), second)
    with pytest.raises(Full, match="2 requests wait"):
        playing.service.submit(ok, Waiting())
    with playing:
        assert_same(first.get(), apart(world, ok))
        with pytest.raises(ValueError, match="must leave room for an answer"):
            second.get()
    with pytest.raises(Closed):
        playing.service.submit(ok, Waiting())


def test_a_fault_of_the_device_is_told_to_everyone_who_waits(world):
    playing = Playing(world)
    waiting = Waiting()
    playing.service.submit(own(world, world.requests[0], 6), waiting)
    playing.service._engine.slots.read = None  # not callable
    with pytest.raises(TypeError):
        playing.service.run()
    with pytest.raises(Closed):
        waiting.get()
    assert isinstance(playing.service.fault, TypeError)


def test_top_p_of_one_row_truncates_that_row_alone(world):
    narrow = own(world, world.requests[0], 7, top_p=1e-6)
    with Playing(world) as service:
        one, two = Waiting(), Waiting()
        service.submit(narrow, one)
        service.submit(own(world, world.requests[1], 8), two)
        rows, others = one.get(), two.get()
    greedy = apart(world, own(world, world.requests[0], 7), temperature=0.0)
    for row, reference in zip(rows, greedy, strict=True):
        np.testing.assert_array_equal(row.tokens, reference.tokens)
        assert np.all(row.sampler_logps[row.loss_mask] == 0)  # one token has all of the mass
    assert_same(others, apart(world, own(world, world.requests[1], 8)))
