"""Rewards of the user's own: what they add, how parts are named, and what becomes of a row that one cannot score."""

import fractions

import jax.numpy as jnp
import numpy as np
import pytest

from arft_jax.protocol import Answer
from arft_jax.rewards.combine import REWARD_FAILED, Scorer, score_trajectory
from arft_jax.rewards.extra import ExtraReward, RewardFailure, reward_names, score_extra
from arft_jax.trajectory import Status, Task, Trajectory, Turn

ANSWER = "<think>seen</think><answer>fox</answer>"


def answered(status=Status.ANSWERED, **extra):
    turn = Turn(ANSWER, Answer("fox"), 0, 0, in_form=True)
    task = Task("t1", "search", "?", (), ("fox",), extra=extra)
    empty = np.zeros(0)
    return Trajectory(task, 0, empty, empty, empty, empty, empty, 0, (), (turn,), status)


def test_a_value_is_added_by_its_weight_and_named():
    scorer = Scorer(extra=(ExtraReward("turns", lambda t, task: len(t.turns), -0.25),))
    rewards = scorer(answered()).rewards
    # format 1 + f1 1 - 0.25 * 1 turn
    assert rewards["turns"] == 1.0 and rewards["total"] == 1.75
    assert {name: value for name, value in rewards.items() if name not in ("turns", "total")} == {
        name: value for name, value in score_trajectory(answered()).items() if name != "total"
    }


def test_parts_are_logged_by_name_and_their_sum_is_weighed():
    extra = ExtraReward("shape", lambda t, task: {"area": 0.5, "edge": task.extra["edge"]}, 2.0)
    rewards = Scorer(extra=(extra,))(answered(edge=0.25)).rewards
    assert (rewards["shape/area"], rewards["shape/edge"], rewards["shape"]) == (0.5, 0.25, 0.75)
    assert rewards["total"] == 2.0 + 2.0 * 0.75


def test_without_extra_rewards_the_scores_are_those_of_score_trajectory():
    assert Scorer()(answered()).rewards == score_trajectory(answered())


@pytest.mark.parametrize(
    "value",
    [True, 1, np.float32(1), np.int64(1), np.array(1.0), jnp.float32(1), jnp.bfloat16(1), fractions.Fraction(1)],
)
def test_numbers_of_every_kind_are_taken(value):
    assert score_extra(ExtraReward("x", lambda *_: value, 1.0), answered()) == {"x": 1.0}


class Unprintable:
    def __repr__(self):
        raise RuntimeError("no")


FAILURES = {
    "nan": (lambda *_: float("nan"), "must return a finite number: got nan"),
    "an infinity": (lambda *_: np.inf, "must return a finite number: got inf"),
    "nothing": (lambda *_: None, "got None"),
    "a text": (lambda *_: "1.0", "got '1.0'"),
    "a list": (lambda *_: [1.0], r"got \[1.0\]"),
    "a complex number": (lambda *_: 1j, "got 1j"),
    "something that cannot be shown": (lambda *_: Unprintable(), "got a Unprintable"),
    "no part": (lambda *_: {}, "a mapping of parts by name: got {}"),
    "a part without a name": (lambda *_: {3: 1.0}, "a mapping of parts by name"),
    "a part that is no number": (lambda *_: {"a": 1.0, "b": None}, "part 'b' of the reward x .* got None"),
    "an exception": (lambda *_: 1 / 0, "raised ZeroDivisionError: division by zero"),
    "an exit": (lambda *_: exit(3), "raised SystemExit: 3"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_row_that_cannot_be_scored_is_masked_and_told(case):
    function, sentence = FAILURES[case]
    told = []
    good = ExtraReward("good", lambda *_: 1.0, 1.0)
    scored = Scorer(extra=(good, ExtraReward("x", function, 1.0)), on_failure=told.append)(answered())
    assert scored.status is Status.INFRA and scored.rewards == {}
    [failure] = told
    assert isinstance(failure, RewardFailure) and scored.info[REWARD_FAILED] == str(failure)
    with pytest.raises(RewardFailure, match=sentence):
        raise failure


def test_a_row_without_a_score_is_passed_over():
    ours = answered(Status.INFRA)
    assert Scorer(extra=(ExtraReward("x", lambda *_: 1 / 0, 1.0),))(ours) is ours


def test_a_name_that_is_taken_is_the_whole_path():
    assert reward_names(["a:turns", "b.c:format", "d:x", "e:x"], ["format"]) == ["turns", "b.c:format", "d:x", "e:x"]
