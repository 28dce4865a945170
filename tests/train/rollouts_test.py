"""What each training step begins, returns and leaves behind, over a policy that does not change."""

import types

import jax
import pytest

from arft_jax.config import default_config
from arft_jax.data.images import Quarantine
from arft_jax.rewards.combine import Scorer
from arft_jax.testing import tiny_rollout as tiny
from arft_jax.testing.babble import World, assert_equal_bits, flat, reply
from arft_jax.train.rollouts import TrainRollouts, valid_rows
from arft_jax.trajectory import Status

STEPS, P, G = 4, 2, 2


@pytest.fixture(scope="module")
def world():
    return World()


class Run(TrainRollouts):
    """Rollouts of one policy; every task of the two sets is drawn once."""

    def __init__(self, world, orders=None, **rollout):
        config, self.policy = default_config(), world.params
        config.seed = 11
        config.rollout.update(**dict(group_size=G, carry_over=0.5) | rollout)
        config.train.update(prompts=P, steps=STEPS)
        tasks = [tiny.tiny_task(i) for i in range(2 * STEPS * P)]
        tasks = {"even": {"train": tasks[::2]}, "odd": {"train": tasks[1::2]}}
        super().__init__(
            config, world.engine(), tasks, tiny.InstantTools(reply), quarantine=Quarantine(),
            scorer=Scorer(), orders=orders or {name: iter(range(STEPS * P)) for name in tasks},
        )  # fmt: skip

    def steps(self, first, last):
        return [self.roll_out(self.policy, step) for step in range(first, last + 1)]


def ids(groups):
    return sorted(group[0].task.id for group in groups)


def test_every_step_trains_as_many_groups_and_every_task_that_was_drawn_is_trained_once(world):
    run = Run(world)
    in_flight, steps = [], []
    for step in range(1, STEPS + 1):
        steps += run.steps(step, step)
        in_flight.append(len(run.engine.in_flight))
    assert [len(groups) for groups in steps] == [P] * STEPS and in_flight == [1] * (STEPS - 1) + [0]
    # the tasks of a run that carries nothing, dealt from the two sets in turn
    assert ids(flat(steps)) == sorted(f"t{i}" for i in range(STEPS * P))
    assert [len(list(stream)) for stream in run.orders.values()] == [STEPS * P - STEPS * P // 2] * 2
    assert any(len(set(t.versions[t.loss_mask].tolist())) > 1 for t in flat(flat(steps)))
    for version, groups in enumerate(steps):
        assert all(0 <= version - t.versions[t.loss_mask].min() <= 1 for t in flat(groups))


def test_what_is_carried_over_is_drawn_with_the_key_of_the_step_that_began_it(world):
    run, begun = Run(world), {}
    engine = run.engine
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
    carried = first.carried()
    assert len(carried) == 1 and carried[0][1] in (1, 2)
    second = Run(world, orders=first.orders)
    second.resume_carried(carried)
    assert second.carried() == carried  # asked to end again before a step
    done += flat(second.steps(3, STEPS))
    assert ids(done) == sorted(straight)
    assert_equal_bits(flat(done), flat([straight[group[0].task.id] for group in done]))


def test_without_carrying_over_a_step_is_one_whole_rollout(world):
    run = Run(world, carry_over=0.0)
    steps = run.steps(1, 2)
    assert [ids(groups) for groups in steps] == [["t0", "t1"], ["t2", "t3"]]
    assert run.carried() == [] and run.engine.in_flight == []
    for version, groups in enumerate(steps):
        assert all(set(t.versions[t.loss_mask].tolist()) == {version} for t in flat(groups))


def test_carried_groups_that_cannot_be_dealt_are_refused(world, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match=r"got 1 of them and 2 processes; .* \(config.distributed.n_processes\)"):
        Run(world).resume_carried([[0, 1]])


def test_a_row_with_an_infrastructure_failure_is_left_out_and_its_group_is_not():
    fine, failed = (types.SimpleNamespace(status=status) for status in (Status.ANSWERED, Status.INFRA))
    assert valid_rows([fine, fine, failed, fine]).tolist() == [True, True, False, True]
