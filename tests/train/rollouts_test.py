"""What each training step begins, returns and leaves behind, over a policy that does not change."""

import types

import jax
import numpy as np
import pytest

from arft_jax.config import default_config
from arft_jax.testing import tiny_rollout as tiny
from arft_jax.testing.babble import World, assert_equal_bits, flat, reply
from arft_jax.train import rollouts

STEPS, P, G = 4, 2, 2


@pytest.fixture(scope="module")
def world():
    return World()


class Run:
    """The part of a training run that rollouts read; every task of its two sets is drawn once."""

    def __init__(self, world, seed=11, **rollout):
        self.config, self.world = default_config(), world
        self.config.seed = seed
        self.config.rollout.update(group_size=G, carry_over=0.5, **rollout)
        self.config.train.update(prompts=P, steps=STEPS)
        tasks = [tiny.tiny_task(i) for i in range(2 * STEPS * P)]
        self.tasks = {"even": {"train": tasks[::2]}, "odd": {"train": tasks[1::2]}}
        self.streams = {name: iter(range(STEPS * P)) for name in self.tasks}
        self.parts = types.SimpleNamespace(engine=world.engine())
        self.toolbox = tiny.InstantTools(reply)
        self.resumed = []

    def policy(self):
        return self.world.params

    def key(self, stream, step):
        return np.array([self.config.seed, step], np.uint32)

    def rng(self, stream, step):
        return jax.device_put(self.key(stream, step))

    def steps(self, first, last):
        return [rollouts.roll_out(self, step) for step in range(first, last + 1)]


def ids(groups):
    return sorted(group[0].task.id for group in groups)


def test_every_step_trains_as_many_groups_and_every_task_that_was_drawn_is_trained_once(world):
    run = Run(world)
    in_flight, steps = [], []
    for step in range(1, STEPS + 1):
        steps += run.steps(step, step)
        in_flight.append(len(run.parts.engine.in_flight))
    assert [len(groups) for groups in steps] == [P] * STEPS and in_flight == [1] * (STEPS - 1) + [0]
    # the tasks of a run that carries nothing, dealt from the two sets in turn
    assert ids(flat(steps)) == sorted(f"t{i}" for i in range(STEPS * P))
    assert [len(list(stream)) for stream in run.streams.values()] == [STEPS * P - STEPS * P // 2] * 2
    assert any(len(set(t.versions[t.loss_mask].tolist())) > 1 for t in flat(flat(steps)))
    for version, groups in enumerate(steps):
        assert all(0 <= version - t.versions[t.loss_mask].min() <= 1 for t in flat(groups))


def test_what_is_carried_over_is_drawn_with_the_key_of_the_step_that_began_it(world):
    run, begun = Run(world), {}
    engine = run.parts.engine
    run_on = engine.run_on

    def remember(params, requests, toolbox, *, rng, **options):
        begun.update((request.task.id, (request, rng)) for request in requests)
        return run_on(params, requests, toolbox, rng=rng, **options)

    engine.run_on = remember
    groups = flat(run.steps(1, STEPS))
    for group in groups:
        request, rng = begun[group[0].task.id]
        [apart] = world.base.run(world.params, [request], run.toolbox, rng=rng, temperature=1.0)
        assert_equal_bits(group, apart)


def test_a_resumed_run_begins_the_carried_groups_anew_and_with_equal_weights_ends_alike(world):
    straight = {group[0].task.id: group for group in flat(Run(world).steps(1, STEPS))}
    first = Run(world)
    done = flat(first.steps(1, 2))
    state = rollouts.carried_state(first)
    assert len(state) == 1 and state[0][1] in (1, 2)
    second = Run(world)
    second.streams = first.streams
    rollouts.resume_carried(second, state)
    assert rollouts.carried_state(second) == state  # asked to end again before a step
    done += flat(second.steps(3, STEPS))
    assert ids(done) == sorted(straight)
    assert_equal_bits(flat(done), flat([straight[group[0].task.id] for group in done]))


def test_without_carrying_over_a_step_is_one_whole_rollout(world):
    run = Run(world)
    run.config.rollout.carry_over = 0.0
    steps = run.steps(1, 2)
    assert [ids(groups) for groups in steps] == [["t0", "t1"], ["t2", "t3"]]
    assert rollouts.carried_state(run) == [] and run.parts.engine.in_flight == []
    for version, groups in enumerate(steps):
        assert all(set(t.versions[t.loss_mask].tolist()) == {version} for t in flat(groups))


def test_carried_groups_that_cannot_be_dealt_are_refused(world, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match=r"got 1 of them and 2 processes; .* \(config.distributed.n_processes\)"):
        rollouts.resume_carried(Run(world), [[0, 1]])
