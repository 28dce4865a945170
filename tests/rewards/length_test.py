"""The penalty on length: equation 13 of DAPO over sampled tokens, added to the total."""

import dataclasses

import numpy as np
import pytest

from arft_jax.protocol import Answer
from arft_jax.rewards.combine import Scorer
from arft_jax.rewards.extra import ExtraReward
from arft_jax.rewards.length import Overlong
from arft_jax.trajectory import Status, Task, Trajectory, Turn


def sampled(n, n_injected=0, status=Status.ANSWERED):
    """A right answer of ``n`` sampled tokens behind a prompt of 3, and tokens of tools."""
    completion = np.arange(3 + n_injected + n) >= 3
    observation = completion & (np.arange(completion.size) < 3 + n_injected)
    turn = Turn("<think>seen</think><answer>fox</answer>", Answer("fox"), 0, 0, in_form=True)
    return Trajectory(
        Task("t1", "search", "?", (), ("fox",)), 0, np.zeros(completion.size, np.int32),
        np.zeros(completion.size, np.float32), completion, observation, np.zeros((3, completion.size), np.int32), 3, (),
        (turn,), status,
    )  # fmt: skip


def test_hand_values_of_equation_13():
    # L_max 8, L_cache 4: 0 up to 4, then (4 - n) / 4, then -1
    want = {0: 0.0, 1: 0.0, 4: 0.0, 5: -0.25, 6: -0.5, 7: -0.75, 8: -1.0, 9: -1.0, 100: -1.0}
    assert {n: Overlong(4, 8)(sampled(n)) for n in want} == want


def test_what_tools_return_is_not_counted():
    assert Overlong(4, 8)(sampled(5, n_injected=50)) == -0.25


@pytest.mark.parametrize("status", [Status.ANSWERED, Status.TOKENS])
def test_the_penalty_is_a_part_of_the_rewards_and_weighed_in_the_total_of_every_row(status):
    plain = Scorer()(sampled(6, status=status)).rewards
    rewards = Scorer(overlong=Overlong(4, 8, 0.5))(sampled(6, status=status)).rewards
    assert rewards == plain | {"overlong": -0.5, "total": plain["total"] - 0.5 * 0.5}
    assert "overlong" not in plain


def test_it_adds_up_with_rewards_of_ones_own_and_an_infrastructure_failure_is_not_scored():
    scorer = Scorer(extra=(ExtraReward("own", lambda t, task: t.rewards.get("x", 2.0), 1.0),), overlong=Overlong(0, 10))
    assert scorer(sampled(5)).rewards["total"] == 1.0 + 1.0 - 0.5 + 2.0  # format, F1, length, own
    failed = dataclasses.replace(sampled(5), status=Status.INFRA)
    assert scorer(failed) is failed


@pytest.mark.parametrize("values, got", [((8, 8), "got 8, 8"), ((-1, 8), "got -1, 8"), ((4, 8, -1.0), "got -1.0")])
def test_a_range_that_is_empty_and_a_negative_weight_are_refused(values, got):
    with pytest.raises(ValueError, match=rf"{got} \(config.train.overlong_"):
        Overlong(*values)
