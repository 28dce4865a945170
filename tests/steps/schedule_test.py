"""The schedule of decode calls: read late or at once, over columns in buckets, broken off, counted and recorded."""

import jax
import numpy as np
import pytest

from arft_jax.rollout import trace
from arft_jax.rollout.request import Request
from arft_jax.rollout.scheduler import Scheduler
from arft_jax.rollout.trace import Timeline
from arft_jax.steps.sampler import make_sampler
from arft_jax.steps.state import RUNNING
from arft_jax.testing import tiny_rollout as tiny
from arft_jax.testing.babble import N_TASKS, World, assert_equal_bits, assert_same, flat, reply


@pytest.fixture(scope="module")
def world():
    return World()


def test_reading_a_decode_call_before_the_next_is_dispatched_changes_no_bit(world):
    calls, sampler = [], world.programs

    def decode(*args, **kwargs):
        calls.append("dispatch")
        return sampler.decode(*args, **kwargs)

    def orders(overlap):
        calls.clear()
        engine = world.engine(sampler=sampler._replace(decode=decode), options=dict(overlap=overlap))
        read = Scheduler.read_report
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Scheduler, "read_report", lambda self, *args: (calls.append("read"), read(self, *args)))
            return world.run(engine, world.requests), list(calls)

    apart, apart_calls = orders(False)
    ahead, ahead_calls = orders(True)
    assert_equal_bits(flat(ahead), flat(world.reference))
    assert_equal_bits(flat(apart), flat(world.reference))
    assert apart_calls[:4] == ["dispatch", "read"] * 2
    assert ahead_calls[:4] == ["dispatch", "dispatch", "read", "dispatch"]
    assert 0 <= ahead_calls.count("dispatch") - ahead_calls.count("read") <= 1  # the last one finds no row


@pytest.fixture(scope="module")
def bucketed(world):
    other = make_sampler(world.graphdef, decode_steps=4, top_k=0, top_p=1.0)
    engine = world.engine(sampler=other, bucket_columns=48)
    return engine, world.run(engine, world.requests)


# A sum over 48 columns and one over 128 whose rest is 0 are added up in another order: single roundings, which a few
# layers and a log-prob near -7 turn into 2.4e-6 (measured). Tokens differ only where a draw falls into that gap, so the
# bound is assert_same's; without buckets there is none.
def test_buckets_of_columns_change_no_token(world, bucketed):
    assert len({world.base.limits.max_tokens, *map(bucketed[0].slots.columns_for, (1, 48, 49, 96, 97))}) == 3
    assert_same(flat(bucketed[1]), flat(world.reference))


def test_a_row_in_a_small_bucket_equals_itself_beside_a_long_row(world, bucketed):
    engine, groups = bucketed
    for i in (0, 3, 5):
        [[alone]] = world.run(engine, [Request(world.tasks[i], 10 + i, 1)])
        assert_same([alone], groups[i][:1])


def test_every_bucket_is_compiled_before_the_first_row_and_none_after(world, bucketed):
    engine, _ = bucketed
    n = engine.slots.sampler.n_compiled()
    assert n == 2 + 2 * 3  # encode, fork; extend and decode at 48, 96 and 128 columns
    world.run(engine, [Request(tiny.tiny_task(90, sizes=[(56, 56)]), 0, 2)])
    assert engine.slots.sampler.n_compiled() == n


@pytest.fixture
def compilations():
    """Seconds of what the backend compiles while the test runs, eager operations included; empty at first."""
    seen, on = [], [True]

    def listen(name, seconds, **_):
        if on[0] and name == "/jax/core/compile/backend_compile_duration":
            seen.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    jax.jit(lambda x: x * 3 + 1)(np.float32(1))  # of this call alone: nobody has compiled it
    assert len(seen) == 1, "the event has another name, nothing would ever be heard"
    seen.clear()
    yield seen
    on[0] = False  # a listener cannot be taken back


def mixed_rollouts(world, engine, late, k):
    """A round of 5 groups sampled, greedy, with late tools, and carried over to a call that rebuilds.

    Returns the number of rows, and how many were carried over behind their first turn.
    """
    requests = []
    for i in range(5):  # 9 to 11 rows: 1 to 3 images of three sizes, groups of 1 to 3 rows
        sizes = [(28, 28), (56, 56), (28, 56)][: 1 + (i + k) % 3]
        requests.append(Request(tiny.tiny_task(1000 + 10 * k + i, sizes=sizes), i, 1 + (i + k) % 3))
    groups = world.run(engine, requests) + world.run(engine, requests[:2], late)
    groups += world.run(engine, requests[1:4], temperature=0.0, max_turns=2)
    on = dict(rng=world.rng, temperature=1.0, max_age=9, rebuild=True)
    groups += engine.run_on(world.params, requests, late, n_groups=2, version=2 * k, **on)
    n_carried = sum(bool(row.turns) for row in engine.left_behind.rows.values())
    groups += engine.run_on(world.params, [], late, n_groups=3, version=2 * k + 1, **on)
    return len(flat(groups)), n_carried


def test_nothing_at_all_is_compiled_in_200_mixed_rollouts(world, bucketed, compilations):
    late, n_rows, n_carried, k = tiny.LateTools(reply), 0, 0, 0
    try:
        mixed_rollouts(world, bucketed[0], late, k)  # the first greedy rollout, the first that is rebuilt
        compilations.clear()
        while n_rows < 200:
            k += 1
            done, carried = mixed_rollouts(world, bucketed[0], late, k)
            n_rows, n_carried = n_rows + done, n_carried + carried
    finally:
        late.close()
    assert compilations == [] and n_carried > 0
    assert bucketed[0].slots.sampler.n_compiled() == 2 + 3 + 2 * 3  # decode at two temperatures


def test_a_run_that_broke_off_leaves_nothing_running_behind(world):
    class Broken(tiny.InstantTools):
        def submit(self, *args):
            raise KeyError("broken")

    with pytest.raises(KeyError, match="broken"):
        world.run(world.base, world.requests, Broken(reply))
    assert not np.any(np.asarray(world.base.slots.state.status) == RUNNING)
    n = world.programs.n_compiled()
    assert_equal_bits(flat(world.run(world.base, world.requests)), flat(world.reference))
    assert world.programs.n_compiled() == n


def test_costs_count_what_was_done(world):
    rows = flat(world.run(world.base, world.requests))
    costs = world.base.costs
    assert costs.n_sampled == sum(int(t.loss_mask.sum()) for t in rows)
    assert costs.n_forks >= N_TASKS and costs.n_decodes > 4 and costs.n_extends >= N_TASKS
    assert 0 < costs.host_s < costs.total_s and costs.device_wait_s > 0


def test_a_timeline_tells_what_each_slot_did(world):
    timeline = Timeline(n_slots=world.base.limits.n_slots)
    world.run(world.base, world.requests, timeline=timeline)
    assert sum(timeline.shares().values()) == pytest.approx(1) and min(timeline.shares().values()) >= 0
    states = {state for _, state, _, _ in timeline.spans}
    assert {trace.EXTEND, trace.DECODE} <= states
    assert {span[0] for span in timeline.spans} == set(range(world.base.limits.n_slots))
    for slot in range(world.base.limits.n_slots):
        mine = [span for span in timeline.spans if span[0] == slot]
        assert all(a[3] <= b[2] for a, b in zip(mine, mine[1:], strict=False))  # one state at a time
