"""Which groups are dropped, which tasks take their places, and what is counted; rollouts_test.py has whole rollouts."""

import types

import numpy as np
import pytest

from arft_jax.rl.advantages import AdvantageSettings, step_advantages
from arft_jax.train.dynamic_sampling import GroupFilter, Refills, varies
from arft_jax.train.random_streams import group_number, task_place

SIZES = (6, 40)
ATTEMPTS = range(1, 4)


@pytest.mark.parametrize(
    "rewards, valid, want",
    [
        ([1, 1, 1], [True, True, True], False),
        ([0, 1, 1], [True, True, True], True),
        ([0, 1, 1], [False, True, True], False),  # what differs is not learnt from
        ([0, 1, 1], [True, True, False], True),
        ([0, 1, 1], [True, False, False], False),
        ([0, 1, 1], [False, False, False], False),
        ([0.1 + 0.2, 0.3, 0.3], [True, True, True], False),  # equal in float32
    ],
)
def test_a_group_varies_where_it_has_an_advantage(rewards, valid, want):
    rewards, valid = np.array(rewards, np.float32), np.array(valid)
    assert varies(rewards, valid) is want
    found, _ = step_advantages(rewards, valid, settings=AdvantageSettings(), group_size=3)
    assert bool(np.any(found.rows != 0)) is want


def refills(numbers, seed=3, step=5):
    return Refills(seed, step, numbers, SIZES)


# places 0, 2 and 4 are of the first set, 1, 3 and 5 of the second; task 1 of the first is drawn twice
BEGUN = [group_number(SIZES, *group) for group in ((0, 1), (1, 7), (0, 4), (1, 20), (0, 1, 1), (1, 0))]


def test_a_place_keeps_to_its_task_set_and_no_task_comes_twice_while_there_are_others():
    table = {(p, a): refills(BEGUN)(p, a) for a in ATTEMPTS for p in range(6)}
    for (p, _), number in table.items():
        assert task_place(SIZES, number)[0] == p % 2
    second = [task_place(SIZES, table[p, a]) for a in ATTEMPTS for p in (1, 3, 5)]
    assert len(set(second)) == 9 and not {(1, 7), (1, 20), (1, 0)} & set(second)
    # the first set has 4 tasks that were not drawn, for 9 attempts: each is dealt before one comes again
    first = [table[p, a] for a in ATTEMPTS for p in (0, 2, 4)]
    tasks = [task_place(SIZES, number)[1] for number in first]
    assert sorted(tasks[:4]) == [0, 2, 3, 5] and tasks[4:8] == tasks[:4] and len(set(first)) == 9


def test_a_refill_follows_from_seed_step_place_and_attempt_and_not_from_the_order_of_asking():
    asked = [(p, a) for a in ATTEMPTS for p in range(6)]
    table = {(p, a): refills(BEGUN)(p, a) for p, a in asked}
    one = refills(BEGUN)
    assert {(p, a): one(p, a) for p, a in reversed(asked)} == table
    assert {(p, a): refills(BEGUN, seed=4)(p, a) for p, a in asked} != table
    assert {(p, a): refills(BEGUN, step=6)(p, a) for p, a in asked} != table


def test_where_a_step_draws_a_whole_set_its_tasks_come_again():
    begun = [group_number(SIZES, 0, index) for index in range(6)]
    drawn = [task_place(SIZES, refills(begun)(place, 1))[1] for place in range(6)]
    assert sorted(drawn) == list(range(6))


def row(reward, n_sampled=2):
    rewards = {} if reward is None else {"total": reward}
    return types.SimpleNamespace(rewards=rewards, loss_mask=np.ones(n_sampled, bool))


def test_a_group_is_scored_once_dropped_up_to_the_cap_and_counted():
    scored = []

    def score(rows):
        scored.append(rows)
        return [row(reward, n) for reward, n in rows]

    def teaches(rows):
        return len({one.rewards.get("total") for one in rows}) > 1

    sample = GroupFilter(2, 3, score, teaches, lambda place, attempt: (place, attempt))
    dull, good = [(1.0, 2), (1.0, 3)], [(1.0, 2), (0.0, 2)]
    assert sample(1, dull) == (1, 1)
    assert sample(0, good) is None
    assert sample(1, [(0.5, 1), (0.5, 1)]) == (1, 2)
    assert sample(1, [(None, 4), (None, 4)]) is None  # the third and last
    assert len(scored) == 4
    assert [[one.rewards.get("total") for one in group] for group in sample.groups] == [[1.0, 0.0], [None, None]]
    assert sample.tally.figures() == {
        "dynamic/attempts": 2.0,  # 4 groups for 2 places
        "dynamic/dropped_groups": 2.0,
        "dynamic/spent_frac": (5 + 2) / (5 + 4 + 2 + 8),
        "dynamic/without_variance_frac": 0.5,
        "dynamic/reward": (1 + 1 + 1 + 0 + 0.5 + 0.5) / 6,
    }
