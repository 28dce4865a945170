"""What each training step begins, returns and leaves behind, over a policy that does not change."""

import collections
import dataclasses
import json

import jax
import numpy as np
import pytest

from arft_jax.config import default_config
from arft_jax.data.images import Quarantine
from arft_jax.data.pipeline import task_stream
from arft_jax.rewards.combine import Scorer
from arft_jax.rl.advantages import AdvantageSettings, step_advantages
from arft_jax.rollout.request import Request
from arft_jax.testing import tiny_rollout as tiny
from arft_jax.testing.babble import World, assert_equal_bits, flat, reply
from arft_jax.train.random_streams import Stream, stream_key
from arft_jax.train.rollouts import TrainRollouts, valid_rows
from arft_jax.trajectory import Status, Trajectory

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


# ---------------------------------------------------- a task that is drawn twice


@pytest.mark.parametrize("n_processes", [1, 2, 4])
def test_no_two_groups_of_a_step_share_their_stream_on_any_number_of_processes(world, monkeypatch, n_processes):
    begun = []
    drawn = {"even": [0, 0, 1, 0], "odd": [2, 1, 2, 2]}
    for process in range(n_processes):
        with monkeypatch.context() as patch:
            patch.setattr(jax, "process_count", lambda: n_processes)
            patch.setattr(jax, "process_index", lambda process=process: process)
            run = Run(world, orders={name: iter(indices) for name, indices in drawn.items()}, carry_over=0.0)
            run.config.train.prompts = 8
            patch.setattr(run.engine, "run", lambda params, requests, *_, **options: begun.extend(requests))
            run.roll_out(None, 1)
    # dealt from the sets in turn; sets of 8 tasks: task i of set p is number 2 i + p, at its k-th return 16 k more
    assert [(request.task.id, request.number) for request in begun] == [
        ("t0", 0), ("t5", 5), ("t0", 16), ("t3", 3), ("t2", 2), ("t5", 21), ("t0", 32), ("t5", 37)
    ]  # fmt: skip
    assert all(request.rng is None for request in begun)


def test_a_task_that_is_drawn_twice_is_rolled_out_in_two_ways_and_the_first_as_if_alone(world):
    run = Run(world, orders={"even": iter([0, 0]), "odd": iter([0, 0])}, carry_over=0.0)
    run.config.train.prompts = 4
    groups = run.roll_out(run.policy, 1)
    assert [group[0].task.id for group in groups] == ["t0", "t1", "t0", "t1"]
    for first, second in (groups[::2], groups[1::2]):
        rows = [row.tokens.tolist() for row in (*first, *second)]
        assert len({tuple(row) for row in rows}) == 2 * G
    key = jax.device_put(stream_key(11, Stream.ROLLOUT, 1))
    requests = [Request(tiny.tiny_task(number), number, G) for number in (0, 1)]
    alone = world.base.run(world.params, requests, run.toolbox, rng=key, temperature=1.0)
    assert_equal_bits(flat(groups[:2]), flat(alone))


def test_a_task_drawn_twice_is_carried_over_and_resumed_with_the_streams_that_it_had(world):
    def draws():
        return {"even": iter([0, 0, 1, 1]), "odd": iter([0, 0, 1, 1])}

    def run_of(orders):
        run = Run(world, orders=orders)
        run.config.train.update(prompts=4, steps=2)
        return run

    def by_tokens(groups):
        return sorted([row.tokens.tolist() for row in group] for group in groups)

    straight = by_tokens(flat(run_of(draws()).steps(1, 2)))
    assert len({str(rows) for rows in straight}) == 8
    first = run_of(draws())
    done = first.steps(1, 1)[0]
    carried = first.carried()
    assert len(carried) == 2 and len({number for number, step in carried}) == 2
    second = run_of(first.orders)
    second.resume_carried(carried)
    assert by_tokens(done + second.steps(2, 2)[0]) == straight


# ------------------------------------------------------------- what is learnt from


def ended(*statuses, target=""):
    task = dataclasses.replace(tiny.tiny_task(0), target=target)
    return [Trajectory(task, row, *[np.zeros(3, bool)] * 4, np.zeros((3, 3)), 1, (), (), status)
            for row, status in enumerate(statuses)]  # fmt: skip


def of_unfinished(word):
    config = default_config()
    config.train.unfinished = word
    return config


def test_a_row_with_an_infrastructure_failure_is_left_out_and_its_group_is_not():
    rows = ended(Status.ANSWERED, Status.ANSWERED, Status.INFRA, Status.ANSWERED)
    assert valid_rows(default_config(), rows).tolist() == [True, True, False, True]


CUT = (Status.TURN_LIMIT, Status.TURN_TOKENS, Status.TOKENS, Status.IMAGES)


@pytest.mark.parametrize("word", ["negative", "mask", "overlong"])
def test_rows_that_a_budget_cut_are_masked_where_asked_for_and_else_trained(word):
    rows = ended(*Status)
    assert valid_rows(of_unfinished(word), rows).tolist() == [
        status is not Status.INFRA and not (word == "mask" and status in CUT) for status in Status
    ]


def test_a_recorded_step_is_whole_at_its_one_turn():
    rows = ended(Status.TURN_LIMIT, Status.TURN_TOKENS, target="<problem>{'dark'}</problem>")
    assert valid_rows(of_unfinished("mask"), rows).tolist() == [True, False]


def test_masked_rows_are_not_scored_and_change_no_advantage_of_their_group():
    run = object.__new__(TrainRollouts)
    run.config, run.quarantine, run._n_told = of_unfinished("mask"), Quarantine(), 0
    totals = iter([1.0, 0.0, 0.5])  # of the rows that are scored
    run.scorer = lambda row: dataclasses.replace(row, rewards={"total": next(totals)})
    rows = run._score(ended(Status.ANSWERED, Status.TOKENS, Status.ANSWERED, Status.MALFORMED))
    assert [row.rewards.get("total") for row in rows] == [1.0, None, 0.0, 0.5]
    rewards = np.array([row.rewards.get("total", 0.0) for row in rows], np.float32)
    valid = valid_rows(run.config, rows)
    got, stats = step_advantages(rewards, valid, settings=AdvantageSettings(), group_size=4)
    # of 1, 0 and 1/2 alone: mean 1/2, standard deviation 1/2
    np.testing.assert_allclose(got.rows, np.array([0.5, 0, -0.5, 0]) / (0.5 + 1e-4), rtol=1e-6)
    assert float(stats["valid_frac"]) == 0.75


# ---------------------------------------------------------------- dynamic sampling


class Counting:
    """Stands in for a scorer: a test's own scores."""

    def __init__(self, score):
        self._score = score

    def begin(self, row):
        """Nothing takes time."""

    def __call__(self, row):
        return self._score(row)


class Dynamic(Run):
    """Steps of four places; groups of some tasks have no variance, and every scored row is counted."""

    def __init__(self, world, dull, max_attempts=3, orders=None):
        super().__init__(world, carry_over=0.0, orders=orders)
        self.dull, self.scored = dull, collections.Counter()
        self.config.train.prompts = 4
        self.config.train.dynamic_sampling.update(enabled=True, max_attempts=max_attempts)
        self.scorer = Counting(self.score)

    def score(self, row):
        self.scored[row.task.id, row.row] += 1
        return dataclasses.replace(row, rewards={"total": 1.0 if row.task.id in self.dull else float(row.row)})


def places(rows):
    return [group[0].task.id for group in zip(*[iter(rows)] * G, strict=True)]


DULL = ("t1", "t2", "t4", "t6", "t8", "t9")  # of 16; the first step begins with t0 to t3


@pytest.fixture(scope="module")
def refilled(world):
    run = Dynamic(world, DULL)
    return run, run.step(run.policy, 1)


def test_groups_without_variance_are_refilled_and_the_update_has_its_full_number(refilled):
    run, rows = refilled
    assert len(rows) == 4 * G and places(rows)[0] == "t0" and places(rows)[3] == "t3"
    # a place keeps to its set, and what stands there varies
    assert [int(name[1:]) % 2 for name in places(rows)] == [0, 1, 0, 1] and not set(DULL) & set(places(rows))
    assert all(row.rewards for row in rows) and set(run.scored.values()) == {1}
    n_groups = len(run.scored) // G
    assert n_groups > 5 and run.figures["dynamic/attempts"] == n_groups / 4
    assert run.figures["dynamic/dropped_groups"] == n_groups - 4
    assert run.figures["dynamic/without_variance_frac"] == 0 < run.figures["dynamic/spent_frac"] < 1


def test_who_ends_first_changes_nothing(world, refilled):
    for seed in (0, 1):
        run = Dynamic(world, DULL)
        run.toolbox = tiny.LateTools(reply, seed=seed)
        rows = run.step(run.policy, 1)
        run.toolbox.close()
        assert_equal_bits(rows, refilled[1])
        assert run.figures == refilled[0].figures


def test_refills_are_those_of_one_process_on_several(world, refilled, monkeypatch):
    rows = []
    for process in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(jax, "process_count", lambda: 2)
            patch.setattr(jax, "process_index", lambda process=process: process)
            run = Dynamic(world, DULL)
            rows += run.step(run.policy, 1)
    assert_equal_bits(rows, refilled[1])


def test_refills_do_not_move_the_orders_of_the_tasks(world, refilled):
    run = refilled[0]
    assert [next(order) for order in run.orders.values()] == [2, 2]


def test_a_resumed_run_refills_as_an_unbroken_one(world):
    def dynamic():
        return Dynamic(world, DULL, orders={name: task_stream(8, seed=4) for name in ("even", "odd")})

    straight = dynamic()
    first = straight.step(straight.policy, 1)
    state = json.loads(json.dumps(straight.state()))
    resumed = dynamic()
    resumed.restore(state)
    second = straight.step(straight.policy, 2)
    assert straight.figures["dynamic/dropped_groups"] > 0 and places(first) != places(second)
    assert_equal_bits(resumed.step(resumed.policy, 2), second)


def test_at_the_cap_the_last_group_is_kept_counted_and_told_ever_more_rarely(world, capsys):
    run = Dynamic(world, [f"t{i}" for i in range(16)], max_attempts=2)
    told = []
    for step in range(1, 4):
        rows = run.step(run.policy, step)
        assert len(rows) == 4 * G and set(run.scored.values()) == {1} and len(run.scored) == 8 * G
        assert not {"t0", "t1", "t2", "t3"} & set(places(rows)) or step > 1
        assert run.figures["dynamic/attempts"] == 2.0 and run.figures["dynamic/without_variance_frac"] == 1.0
        told.append(capsys.readouterr().out)
        run.scored.clear()
    assert told[0].startswith("step 1: the rewards of 4 of 4 groups do not vary") and "max_attempts" in told[0]
    assert told[1].startswith("step 2: ") and told[2] == ""


def test_dynamic_sampling_that_finds_variance_everywhere_changes_nothing(world):
    run = Dynamic(world, ())
    rows = run.step(run.policy, 1)
    plain = Run(world, carry_over=0.0)
    plain.config.train.prompts = 4
    assert_equal_bits(rows, flat(plain.roll_out(plain.policy, 1)))
    assert run.figures["dynamic/attempts"] == 1.0
