"""Groups that a rollout leaves behind and a later one resumes: the same trajectories, and never too old."""

import concurrent.futures
import dataclasses
import threading

import jax
import numpy as np
import pytest

from arft_jax.rollout.prefill import Feeder
from arft_jax.rollout.request import Request
from arft_jax.rollout.trace import RolloutCosts
from arft_jax.steps import learner
from arft_jax.steps.state import RUNNING
from arft_jax.testing import tiny_rollout as tiny
from arft_jax.testing.babble import LOGPS_TOLERANCE, World, assert_equal_bits, assert_same, flat, reply
from arft_jax.testing.rows import one_each


@pytest.fixture(scope="module")
def world():
    return World()


@pytest.fixture(scope="module")
def moved(world):
    """Other weights, near enough to babble on."""
    return jax.tree.map(lambda x: x * 1.1, world.params)


def key(step):
    return np.array([11, step], np.uint32)  # eleven: several rows stand still in the midst of a turn or at a tool


STEPS = ((0, 1, 2), (3, 4), (5, 6), (7,))  # requests that each step begins; each returns two groups


def play(world, engine, params=None, max_age=9, between=None, steps=STEPS, tools=None, **options):
    """Four steps of two groups, one group left behind by each but the last; params of each step."""
    out = []
    for step, begun in enumerate(steps):
        out.append(
            engine.run_on(
                (params or [world.params] * len(steps))[step], [world.requests[i] for i in begun],
                tools or tiny.InstantTools(reply), rng=jax.device_put(key(step)), temperature=1.0, n_groups=2,
                version=step, max_age=max_age, **options,
            )
        )  # fmt: skip
        if between is not None and step < len(steps) - 1:
            between(engine)
    return out


@pytest.fixture(scope="module")
def apart(world):
    """Each request in a rollout of its own that ends when it ends, with the key of its step."""
    return {
        world.tasks[i].id: world.base.run(
            world.params, [world.requests[i]], tiny.InstantTools(reply), rng=jax.device_put(key(step)), temperature=1.0
        )[0]
        for step, begun in enumerate(STEPS)
        for i in begun
    }


@pytest.fixture(scope="module")
def kept(world):
    return play(world, world.base)


def in_order(steps, apart):
    """(what the steps returned, what each group is apart), row by row."""
    groups = flat(steps)
    assert sorted(group[0].task.id for group in groups) == sorted(apart)
    return flat(groups), flat([apart[group[0].task.id] for group in groups])


def carried(t):
    return len(set(t.versions[t.loss_mask].tolist())) > 1


def test_with_unchanged_weights_no_bit_depends_on_what_is_left_behind(world, apart, kept):
    assert sum(carried(t) for t in flat(flat(kept))) >= 3  # rows stood still in the midst of it
    assert [len(groups) for groups in kept] == [2] * 4 and world.base.in_flight == []
    assert_equal_bits(*in_order(kept, apart))


def test_rebuilding_the_cache_under_unchanged_weights_changes_no_token(world, apart):
    n = world.programs.n_compiled()
    assert_same(*in_order(play(world, world.base, rebuild=True), apart))
    assert world.programs.n_compiled() == n


def test_records_in_several_pieces_are_rebuilt_alike(world, apart):
    small = world.engine(n_features=6)  # some rows show 3 images, of 1 to 4 tokens each
    assert_same(*in_order(play(world, small, rebuild=True), apart))


def test_other_rollouts_between_the_steps_change_nothing_and_are_not_changed(world, apart):
    groups, held = [], []

    def evaluate(engine):
        held.append(len(engine.held))
        assert not np.any(np.asarray(engine.slots.state.status) == RUNNING)
        requests = [Request(world.tasks[i], 10 + i, 1) for i in range(4)]
        groups.append(world.run(engine, requests))

    assert_equal_bits(*in_order(play(world, world.base, between=evaluate), apart))
    assert sum(n > 0 for n in held) >= 2
    for four in groups:
        assert_equal_bits(flat(four), [group[0] for group in world.reference[:4]])


def test_versions_are_those_of_the_weights_that_sampled(kept):
    for step, groups in enumerate(kept):
        for t in flat(groups):
            np.testing.assert_array_equal(t.versions == -1, ~t.loss_mask)
            sampled = t.versions[t.loss_mask]
            assert np.all(np.diff(sampled) >= 0) and 0 <= sampled[0] and sampled[-1] <= step
    begun = {i: step for step, some in enumerate(STEPS) for i in some}
    for t in flat(flat(kept)):  # six slots hold both groups of a step, and a third where rows are left behind
        assert t.versions[t.loss_mask][0] >= begun[int(t.task.id[1:])]


def _full_forward(world, params, rows):
    batch = one_each(rows, world.images_of, length=128, n_chunks=8, bucket=world.bucket)
    score = learner.make_score(world.graphdef, learner.Objective())
    return np.asarray(score(params, jax.device_put(batch), world.rules.allowed)), batch


@pytest.mark.parametrize("rebuild", [True, False])
def test_every_token_has_the_log_prob_of_its_version_where_the_cache_is_rebuilt(world, moved, rebuild):
    policies = [world.params, moved, world.params, moved]
    rows = [t for t in flat(flat(play(world, world.base, policies, rebuild=rebuild))) if carried(t)]
    assert len(rows) >= 3
    logps = [_full_forward(world, params, rows)[0] for params in (world.params, moved)]
    batch = _full_forward(world, moved, rows)[1]
    versions = np.full(batch.tokens.shape, -1)
    for r, t in enumerate(rows):
        versions[r, : len(t.tokens)] = t.versions
    own = np.where(versions % 2 == 0, *logps)
    gap = np.abs(np.where(batch.loss_mask, own - batch.sampler_logps, 0.0))
    first = np.array([[t.versions[t.loss_mask][0]] for t in rows])
    assert gap[versions == first].max() < LOGPS_TOLERANCE  # before the weights moved
    later = gap[(versions > first) & batch.loss_mask].max()
    assert later < LOGPS_TOLERANCE if rebuild else later > 100 * LOGPS_TOLERANCE


def _left_behind(world, engine):
    """One step that leaves a group; returns its rows by slot, and the cache as host arrays."""
    engine.run_on(
        world.params, world.requests, tiny.InstantTools(reply), rng=jax.device_put(key(0)), temperature=1.0,
        n_groups=1, version=0, max_age=9,
    )  # fmt: skip
    rows, running = dict(engine.left_behind.rows), engine.left_behind.running
    assert running and set(rows) - running and any(row.turn_len for row in rows.values())
    return rows, jax.device_get(engine.slots.state.cache)


def _columns(cache, row):
    """Keys and values of a row as far as they are written: all but its last token's."""
    n = row.length + row.turn_len - 1
    keys = [np.swapaxes(layer[row.slot], 1, 2) for layer in cache.k]
    return np.stack([[layer[:, :n] for layer in layers] for layers in (keys, [v[row.slot] for v in cache.v])])


def _resume(engine, params, rebuild):
    """What resume does to the cache before anything else runs."""
    engine.left_behind.resume(params, 1, rebuild)
    return jax.device_get(engine.slots.state.cache)


def test_keeping_leaves_the_cache_and_rebuilding_is_a_fresh_prefill_of_the_record(world, moved):
    engine = world.engine()
    rows, before = _left_behind(world, engine)
    kept = _resume(engine, moved, False)
    assert all(np.array_equal(_columns(kept, row), _columns(before, row)) for row in rows.values())
    rebuilt = _resume(engine, moved, True)
    # the same pieces into an engine that never saw older weights
    fresh = world.engine()
    Feeder(fresh.slots, fresh.renderer, moved, rows, RolloutCosts()).rebuild()
    want = jax.device_get(fresh.slots.state.cache)
    for row in rows.values():
        assert row.length + row.turn_len > 20
        np.testing.assert_array_equal(_columns(rebuilt, row), _columns(want, row))
        assert np.abs(_columns(rebuilt, row) - _columns(before, row)).max() > 1e-2


class HeldTool(tiny.InstantTools):
    """Calls of one task wait until they are let go."""

    def __init__(self, slow):
        super().__init__(reply)
        self.slow, self.held, self.let = slow, [], False

    def submit(self, call, context):
        if context.task.id != self.slow or self.let:
            return super().submit(call, context)
        future = concurrent.futures.Future()
        self.held.append((future, self.answer(context.task, call, None)))
        return future

    def let_go(self):
        self.let = True
        while self.held:
            future, observation = self.held.pop()
            future.set_result(observation)


def _slow_task(world):
    """A task of the first step of which a row calls a tool."""
    return next(group[0].task.id for group in world.reference[:2] if any(len(t.turns) > 1 for t in group))


@pytest.mark.parametrize("max_age", [1, 2])
def test_a_group_that_would_be_too_old_is_waited_for(world, max_age):
    engine, tools = world.engine(n_slots=12), HeldTool(_slow_task(world))
    options = dict(temperature=1.0, max_age=max_age)
    returned = []
    for step, begun in enumerate(STEPS[:3]):
        timer = threading.Timer(0.2, tools.let_go) if step == max_age else None
        if timer:
            timer.start()
        requests = [world.requests[i] for i in begun]
        groups = engine.run_on(world.params, requests, tools, rng=world.rng, n_groups=2, version=step, **options)
        returned.append([group[0].task.id for group in groups])
        assert all(step - t.versions[t.loss_mask].min() <= max_age for t in flat(groups))
        if timer:
            timer.join()
    assert [step for step, ids in enumerate(returned) if tools.slow in ids] == [max_age]


def test_what_was_left_behind_can_be_begun_again_elsewhere(world):
    engine = world.engine()
    _left_behind(world, engine)
    left = engine.in_flight
    assert len(left) == 7 and all(request.rng.tolist() == [11, 0] for request in left)
    again = world.engine().run(world.params, left, tiny.InstantTools(reply), rng=world.rng, temperature=1.0)
    every = world.base.run(
        world.params, world.requests, tiny.InstantTools(reply), rng=jax.device_put(key(0)), temperature=1.0
    )
    numbers = [request.number for request in left]
    assert_equal_bits(flat(again), flat([rows for i, rows in enumerate(every) if 10 + i in numbers]))


def test_bad_requests_are_refused_before_anything_begins(world):
    engine = world.engine()
    options = dict(rng=world.rng, temperature=1.0, version=0, max_age=1)
    with pytest.raises(ValueError, match=r"n_groups must be under way: got n_groups=2, 1 groups"):
        engine.run_on(world.params, world.requests[:1], tiny.InstantTools(reply), n_groups=2, **options)
    assert engine.in_flight == []
    rows, _ = _left_behind(world, engine)
    with pytest.raises(ValueError, match=rf"got 0 rows, {6 - len(rows)} slots that are not held"):
        world.run(engine, [Request(world.tasks[0], 0, 0)])
    assert len(engine.held) == len(rows)


def test_a_run_that_broke_off_leaves_nothing_behind(world):
    class Broken(tiny.InstantTools):
        def submit(self, *args):
            raise KeyError("broken")

    engine = world.engine()
    _left_behind(world, engine)
    with pytest.raises(KeyError, match="broken"):
        world.run(engine, world.requests, Broken(reply))
    assert not engine.held and engine.in_flight == []
    assert_equal_bits(flat(world.run(engine, world.requests)), flat(world.reference))


# ------------------------------------------------------- a place that is filled again


def test_what_takes_a_groups_place_is_rolled_out_as_if_alone_and_stands_in_that_place(world):
    again = {1: [dataclasses.replace(world.requests[5], rng=key(2)), world.requests[6]], 2: [world.requests[7]]}
    ended = []

    def on_group(place, rows):
        ended.append((place, rows[0].task.id, [row.row for row in rows]))
        return again[place].pop(0) if again.get(place) else None

    n = world.programs.n_compiled()
    groups = world.run(world.base, world.requests[:4], on_group=on_group)
    assert [group[0].task.id for group in groups] == ["t0", "t6", "t7", "t3"]
    assert_equal_bits(flat(groups), flat([world.reference[i] for i in (0, 6, 7, 3)]))  # t6 of the run's key too
    assert [name for place, name, _ in ended if place == 1] == ["t1", "t5", "t6"]
    assert len(ended) == 7 and all(rows == [0, 1, 2] for _, _, rows in ended)
    assert world.programs.n_compiled() == n and not world.base.held


def test_a_place_is_filled_again_while_others_are_under_way(world):
    slow, order, requests = _slow_task(world), [], world.requests[:2]
    tools = HeldTool(slow)
    timer = threading.Timer(20.0, tools.let_go)  # were the place filled behind the slow group
    timer.start()

    def on_group(place, rows):
        order.append(rows[0].task.id)
        if rows[0].task.id == "t7":
            tools.let_go()
        return world.requests[7] if rows[0].task.id not in ("t7", slow) else None

    groups = world.run(world.base, requests, tools, on_group=on_group)
    timer.cancel()
    other = "t1" if slow == "t0" else "t0"
    assert order == [other, "t7", slow]
    ids = [7 if request.task.id == other else int(slow[1:]) for request in requests]
    assert_equal_bits(flat(groups), flat([world.reference[i] for i in ids]))


def test_a_prompt_that_does_not_fit_in_a_place_ends_the_run_and_leaves_nothing_behind(world):
    engine = world.engine()
    long = Request(dataclasses.replace(world.tasks[0], question="why? " * 200), 0, 1)
    with pytest.raises(ValueError, match=r"the prompt of task 't0' must leave room"):
        world.run(engine, world.requests[:1], on_group=lambda place, rows: long)
    assert not engine.held and engine.in_flight == []
    assert_equal_bits(flat(world.run(engine, world.requests[:1])), world.reference[0])
