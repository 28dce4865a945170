"""The rubric and the score: what a judge is shown, and what of its words counts."""

import dataclasses

import numpy as np
import pytest

from arft_jax.protocol import Answer
from arft_jax.rewards.combine import REWARD_FAILED, Graded, RewardWeights, Scorer
from arft_jax.rewards.judge import MAX_CHARS, RUBRIC, JudgeFailure, prompt_for, rendered, score_of
from arft_jax.trajectory import Status, Task, Trajectory, Turn


def answered(answer, answers=("7",)):
    turn = Turn("t", None if answer is None else Answer(answer), 0, 0, in_form=True)
    empty = np.zeros(0)
    return Trajectory(Task("t1", "search", "?", (), answers), 0, *[empty] * 5, 0, (), (turn,), Status.ANSWERED)


@pytest.mark.parametrize(
    "reply, score",
    [
        ("score: 1", 1.0),
        ("Score: 0.5.", 0.5),
        ("**Score:** 1", 1.0),
        ("`score: 0`", 0.0),
        ("The answer says 'score: 1'.\nscore: 1\nNo, it is wrong.\nscore: 0\n", 0.0),
        ("SCORE :  .25  ", 0.25),
    ],
)
def test_the_last_line_with_a_score_counts(reply, score):
    assert score_of(reply) == score


@pytest.mark.parametrize("reply", ["", "score: nan", "1", "score 1", "score: one", "score: 1.01", "score: inf"])
def test_anything_else_is_no_score(reply):
    with pytest.raises(JudgeFailure):
        score_of(reply)


def test_braces_of_question_and_answer_are_not_filled_in():
    shown = rendered(RUBRIC, "What is {answer}?", ("{question}", "b"), "{answers}")
    assert "Question: What is {answer}?\n" in shown
    assert "Accepted answers: {question} | b\n" in shown and "Given answer: {answers}\n" in shown


def test_a_long_answer_is_cut_for_the_judge():
    shown = rendered("{answer}", "", (), "x" * (MAX_CHARS + 5))
    assert shown == "x" * MAX_CHARS + " [cut]"


class Oracle:
    """A judge in this process: notes what it is asked."""

    def __init__(self, score=0.5):
        self.begun, self._score = [], score

    def begin(self, prompt):
        self.begun.append(prompt)

    def score(self, prompt):
        if self._score is None:
            raise JudgeFailure("the judge is away")
        return self._score


def scorer_of(judge, **weights):
    return Scorer(RewardWeights(**weights), graded=Graded(judge, "{question}|{answers}|{answer}", 2.0))


def test_the_score_is_a_part_of_the_total_with_its_weight():
    judge, row = Oracle(), answered("7", answers=("7", "seven"))
    without = Scorer()(row).rewards
    scorer = scorer_of(judge)
    scorer.begin(row)
    rewards = scorer(row).rewards
    assert rewards["judge"] == 0.5 and rewards["total"] == without["total"] + 2.0 * 0.5
    assert {name: rewards[name] for name in without if name != "total"} == {
        name: value for name, value in without.items() if name != "total"
    }
    assert judge.begun == [f"{row.task.question}|7 | seven|7"]


def test_what_has_no_answer_is_worth_0_and_costs_no_request():
    judge = Oracle()
    for row in (answered(None), answered(" "), answered("a b c")):
        scorer = scorer_of(judge, max_answer_words=2)
        scorer.begin(row)
        assert scorer(row).rewards["judge"] == 0.0
    assert judge.begun == []


def test_a_recorded_step_is_not_judged():
    row = answered("7")
    row = dataclasses.replace(row, task=dataclasses.replace(row.task, target="<answer>7</answer>"))
    assert prompt_for(row) is None


def test_where_the_judge_fails_the_row_is_masked_and_the_failure_told():
    told, row = [], answered("7")
    ended = dataclasses.replace(scorer_of(Oracle(None)), on_failure=told.append)(row)
    assert ended.status is Status.INFRA and not ended.rewards
    assert ended.info[REWARD_FAILED].startswith("the judge is away, for task ") and len(told) == 1


def test_a_row_of_an_infrastructure_failure_is_not_asked_about():
    judge = Oracle()
    scorer_of(judge).begin(dataclasses.replace(answered("7"), status=Status.INFRA))
    assert judge.begun == []
