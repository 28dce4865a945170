"""R_format, R_acc and their sum for whole trajectories."""

import numpy as np
import pytest

from arft_jax.protocol import Answer, ToolCall
from arft_jax.rewards import form, outcome
from arft_jax.rewards.combine import RewardWeights, score_trajectory
from arft_jax.testing.toolboxes import code_call, problem_call, search_call, turn_of
from arft_jax.trajectory import Status, Task, Trajectory

PROBLEM = "<think>dim</think><problem>{'dark'}</problem>"
ROTATION = "<think>turned</think><problem>{'rotation90'}</problem>"
NONE = "<think>fine</think><problem>{'none'}</problem>"
CODE = "<think>fix</think><code>```python\nx = 1\n```</code>"
SEARCH = "<think>look</think><search>red fox</search>"
ANSWER = "<think>seen</think><answer>red fox</answer>"
BARE = "<answer>red fox</answer>"


def make(kind, texts, status=Status.ANSWERED, answers=("red fox",), problems=("dark",), query=""):
    task = Task("t1", kind, "?", (), answers, problems if kind == "coding" else (), query=query)
    turns = tuple(turn_of(text) for text in texts)
    empty = np.zeros(0)
    return Trajectory(task, 0, empty, empty, empty, empty, empty, 0, (), turns, status)


@pytest.mark.parametrize(
    "kind, texts, want",
    [
        ("coding", [PROBLEM, CODE, ANSWER], 1.0),
        ("coding", [PROBLEM, CODE, CODE, ANSWER], 1.0),
        ("coding", [NONE, ANSWER], 1.0),
        ("coding", [NONE, CODE, ANSWER], 1.0),
        ("coding", [PROBLEM, ANSWER], 0.0),  # names a fault and leaves it
        ("coding", [ANSWER], 0.0),
        ("coding", [CODE, ANSWER], 0.0),
        ("coding", [CODE, PROBLEM, ANSWER], 0.0),
        ("coding", [PROBLEM, PROBLEM, CODE, ANSWER], 0.0),
        ("coding", [PROBLEM, SEARCH, ANSWER], 0.0),  # the other agent's action
        ("coding", [PROBLEM, CODE, SEARCH, ANSWER], 0.0),
        ("coding", [PROBLEM, CODE, BARE], 0.0),  # one turn without thinking
        ("search", [SEARCH, SEARCH, ANSWER], 1.0),
        ("search", [ANSWER], 1.0),
        ("search", [SEARCH, CODE, ANSWER], 0.0),
        ("search", [SEARCH, ANSWER + SEARCH], 0.0),
        ("search", [], 0.0),
        ("general", [SEARCH, CODE, SEARCH, ANSWER], 1.0),
        ("general", [ANSWER], 1.0),
        ("general", [SEARCH, CODE], 0.0),
        ("general", [SEARCH, BARE], 0.0),
    ],
)
def test_form_wants_every_turn_in_form_and_the_protocols_order(kind, texts, want):
    assert form.format_score(make(kind, texts)) == want


@pytest.mark.parametrize("status", [s for s in Status if s is not Status.ANSWERED])
def test_form_wants_an_answered_trajectory(status):
    assert form.format_score(make("search", [SEARCH, ANSWER], status)) == 0.0


def test_tasks_of_other_kinds_and_policies_with_other_tools_keep_no_order():
    zoom, answer = ToolCall("zoom", {"factor": 2}), Answer("7")
    mixed = [code_call("x"), zoom, search_call("q"), answer]
    assert (
        form.in_order(mixed, "chess") and not form.in_order([], "chess") and not form.in_order([answer, zoom], "chess")
    )
    for kind in ("coding", "search"):
        assert not form.in_order(mixed, kind) and form.in_order(mixed, kind, any_order=True)
    # a tool that the paper does not have may stand anywhere
    assert form.in_order([zoom, problem_call("dark"), zoom, code_call("x"), zoom, answer], "coding")
    assert form.in_order([zoom, search_call("q"), answer], "search")
    assert not form.in_order([zoom, answer], "coding")


def test_a_general_answer_is_scored_by_word_or_by_character_and_its_first_query_where_one_is_recorded():
    assert outcome.answer_score(make("general", [ANSWER])) == (1.0, 1.0)
    chinese = make("general", ["<think>x</think><answer>软件</answer>"], answers=("软件工程",))
    assert outcome.answer_score(chinese) == pytest.approx((2 / 3, 0.0))
    assert outcome.step_score(make("general", [SEARCH, ANSWER])) is None
    assert outcome.step_score(make("general", [CODE, SEARCH, ANSWER], query="red fox")) == 1.0


def test_total_is_format_plus_f1():
    trajectory = make("search", [SEARCH, "<think>x</think><answer>fox</answer>"])
    scores = score_trajectory(trajectory)
    # f1 = 2 * 1 / (1 + 2)
    assert scores == pytest.approx(
        {"format": 1.0, "f1": 2 / 3, "em": 0.0, "problem": 0.0, "step": 0.0, "accuracy": 2 / 3, "total": 5 / 3}
    )


def test_format_is_lost_and_accuracy_kept_where_the_form_is_broken():
    scores = score_trajectory(make("search", [BARE]))
    assert (scores["format"], scores["accuracy"], scores["total"]) == (0.0, 1.0, 1.0)


def test_no_answer_is_worth_nothing():
    scores = score_trajectory(make("coding", [PROBLEM, CODE], Status.TURN_LIMIT))
    assert scores["total"] == 0.0 and scores["problem"] == 1.0


def test_the_first_tool_call_has_its_share_of_accuracy_where_the_task_records_it():
    weights = RewardWeights(step=0.25)
    coding = make("coding", [ROTATION, CODE, ANSWER], problems=("rotation90", "dark"))
    assert score_trajectory(coding, weights)["accuracy"] == pytest.approx(0.75 * 1.0 + 0.25 * 0.5)
    query = "<think>x</think><search>blue star city</search>"
    asked = make("search", [query, ANSWER], query="Red Star city")
    # words blue, star, city against red, star, city: F1 = 2/3
    assert score_trajectory(asked, weights)["accuracy"] == pytest.approx(0.75 * 1.0 + 0.25 * 2 / 3)
    assert score_trajectory(make("search", [ANSWER], query="Red Star city"), weights)["accuracy"] == 0.75
    assert score_trajectory(make("search", [query, ANSWER]), weights)["accuracy"] == 1.0


def test_weights_scale_the_parts():
    scores = score_trajectory(make("search", [ANSWER]), RewardWeights(format=0.5, accuracy=2.0))
    assert scores["total"] == 2.5


def test_answer_above_the_length_cap_scores_nothing():
    trajectory = make(
        "search", ["<think>x</think><answer>red fox or grey wolf</answer>"], answers=("red fox or grey wolf",)
    )
    assert outcome.answer_score(trajectory, max_answer_words=5) == (1.0, 1.0)
    assert outcome.answer_score(trajectory, max_answer_words=4) == (0.0, 0.0)


def test_chinese_answers_are_scored_by_character_for_coding():
    trajectory = make("coding", [NONE, "<think>x</think><answer>软件</answer>"], answers=("软件工程",))
    assert outcome.answer_score(trajectory) == pytest.approx((2 / 3, 0.0))


@pytest.mark.parametrize(
    "named, truth, want",
    [
        (("dark",), ("dark",), 1.0),
        (("dark", "rotation90"), ("rotation90", "dark"), 1.0),
        (("rotation180",), ("rotation180", "blur"), 0.5),
        (("blur",), ("rotation180", "blur"), 0.0),  # half right, but no rotation
        (("rotation90",), ("rotation180", "blur"), 0.0),
        (("rotation90", "dark"), ("rotation90",), 0.0),
        (("rotation90",), ("rotation90", "dark", "blur"), 0.0),
        (("none",), (), 1.0),
        (("dark",), (), 0.0),
    ],
)
def test_problem_step_score_is_the_papers(named, truth, want):
    assert outcome.problem_step_score(named, truth) == want


def test_our_own_fault_is_never_scored():
    with pytest.raises(ValueError, match="must not be 'infra'"):
        score_trajectory(make("search", [ANSWER], Status.INFRA))


def test_weights_out_of_range_are_an_error():
    with pytest.raises(ValueError, match=r"step must be in \[0, 1\]: got 1.5"):
        RewardWeights(step=1.5)
    with pytest.raises(ValueError, match="format must be at least 0"):
        RewardWeights(format=-1)
