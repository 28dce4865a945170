"""The released rewards of a recorded step, each rule with a hand value."""

import numpy as np
import pytest

from arft_jax.rewards import recorded
from arft_jax.rewards.combine import RewardWeights, score_trajectory
from arft_jax.testing.toolboxes import turn_of
from arft_jax.trajectory import Status, Task, Trajectory

THINK = "<think> dim </think>\n"
PROBLEM = "<problem> {'rotation90', 'dark'} </problem>"
CODE = "<code>\n```python\nx = 1\n```\n</code>"
ANSWER = "<answer> the red fox </answer>"
TURNED = "<problem>{'rotation180'}</problem>"
SEARCH = "<search> red fox city </search>"


def made(kind, target, *texts, status=Status.TURN_LIMIT):
    task = Task("t1", kind, "?", (), (), target=target)
    turns = tuple(turn_of(text) for text in texts)
    empty = np.zeros(0)
    return Trajectory(task, 0, empty, empty, empty, empty, empty, 0, (), turns, status)


def test_a_step_is_the_first_of_its_agents_tags_that_it_opens():
    both = "<problem> {'dark'} </problem><answer> 7 </answer>"  # the order of the released code, not of the text
    assert recorded.step_of("coding", both) == "answer"
    assert [recorded.step_of("coding", s) for s in (PROBLEM, CODE, ANSWER)] == ["problem", "code", "answer"]
    assert [recorded.step_of("search", s) for s in (SEARCH, ANSWER)] == ["search", "answer"]
    with pytest.raises(ValueError, match="a recorded search step must hold one of <answer>, <search>: got '<code>"):
        recorded.step_of("search", CODE)
    with pytest.raises(ValueError, match="kind must be one of coding, search: got 'chess'"):
        recorded.step_of("chess", CODE)


FORMS = {
    "the recorded kind": ("coding", PROBLEM, THINK + PROBLEM, 1.0),
    "no space between": ("coding", PROBLEM, "<think></think><problem>{'dark'}</problem>", 1.0),
    "a kind that nobody knows": ("coding", PROBLEM, THINK + "<problem>{'fog'}</problem>", 1.0),
    "no set": ("coding", PROBLEM, THINK + "<problem>dark</problem>", 0.0),
    "an empty set": ("coding", PROBLEM, THINK + "<problem>{}</problem>", 0.0),
    "another kind": ("coding", PROBLEM, THINK + CODE, 0.0),
    "code": ("coding", CODE, THINK + CODE, 1.0),
    "code and words behind its fence": ("coding", CODE, THINK + "<code>```python\nx\n``` done</code>", 1.0),
    "words before the fence": ("coding", CODE, THINK + "<code>so: ```python\nx\n```</code>", 0.0),
    "no fence": ("coding", CODE, THINK + "<code>x = 1</code>", 0.0),
    "a fence of no language": ("coding", CODE, THINK + "<code>```\nx\n```</code>", 0.0),
    "an answer": ("coding", ANSWER, THINK + ANSWER, 1.0),
    "an empty answer": ("coding", ANSWER, THINK + "<answer></answer>", 1.0),
    "no thought": ("coding", ANSWER, ANSWER, 0.0),
    "something before": ("coding", ANSWER, "So: " + THINK + ANSWER, 0.0),
    "something behind": ("coding", ANSWER, THINK + ANSWER + "\n", 0.0),
    "a tag opened twice": ("coding", ANSWER, "<think> dim <think> </think>" + ANSWER, 0.0),
    "another agent's tag twice": ("coding", ANSWER, "<think> <search><search> </think>" + ANSWER, 1.0),
    "a tag closed twice": ("coding", ANSWER, THINK + "<answer> 7 </answer></answer>", 1.0),
    "nothing": ("coding", ANSWER, "", 0.0),
    "a search": ("search", SEARCH, THINK + SEARCH, 1.0),
    "a search for an answer": ("search", ANSWER, THINK + SEARCH, 1.0),  # either form is form
    "an answer for a search": ("search", SEARCH, THINK + ANSWER, 1.0),
    "both": ("search", SEARCH, THINK + SEARCH + ANSWER, 0.0),
    "an answer in the thought": ("search", SEARCH, "<think> <answer></answer> </think>" + SEARCH, 0.0),
    "two searches": ("search", SEARCH, THINK + SEARCH + SEARCH, 0.0),
    "two thoughts": ("search", SEARCH, THINK + THINK + SEARCH, 0.0),
    "code in a search": ("search", SEARCH, THINK + CODE, 0.0),
}


@pytest.mark.parametrize("case", FORMS)
def test_form(case):
    kind, target, completion, want = FORMS[case]
    assert recorded.format_score(kind, target, completion) == want


ACCURACIES = {
    "all words": ("coding", ANSWER, "<answer>Red fox!</answer>", 1.0),
    "some words": ("coding", ANSWER, "<answer> a fox </answer>", 2 / 3),  # 2 * 1 / (1 + 2)
    "a word repeated": ("coding", ANSWER, "<answer>red red fox</answer>", 0.8),  # 2 * 2 / (3 + 2)
    "no tags: all of the text counts": ("coding", ANSWER, "I see the red fox", 2 / 3),  # 2 * 2 / (4 + 2)
    # the tags of two lines are words too: 'answer red', 'fox answer' without punctuation: answer, red, foxanswer
    "tags on two lines": ("coding", ANSWER, "<answer>\nred fox</answer>", 0.4),  # 2 * 1 / (3 + 2)
    "no word in common": ("coding", ANSWER, "<answer>wolf</answer>", 0.0),
    "an article for an article": ("coding", "<answer> A </answer>", "<answer>A</answer>", 0.0),
    "an answer and a tool's tag": ("coding", ANSWER, "<code>" + ANSWER, 0.0),
    "an answer and the other agent's tag": ("coding", ANSWER, "<search>" + ANSWER, 1.0),
    "a search agent's answer": ("search", ANSWER, THINK + ANSWER, 2 * 2 / 4),
    "a search agent's answer with a search": ("search", ANSWER, SEARCH + ANSWER, 0.0),
    "code": ("coding", CODE, THINK + CODE, 0.9),
    "code that is none": ("coding", CODE, "", 0.9),  # kept as it is there
    "code and an answer": ("coding", CODE, CODE + ANSWER, 0.0),
    "code and a problem": ("coding", CODE, "<problem>" + CODE, 0.0),
    "both problems": ("coding", PROBLEM, "<problem>{'dark', 'rotation90'}</problem>", 1.0),
    "the rotation alone": ("coding", PROBLEM, "<problem>{'rotation90'}</problem>", 0.5),
    "the other one alone": ("coding", PROBLEM, "<problem>{'dark'}</problem>", 0.0),
    "a wrong rotation alone": ("coding", PROBLEM, "<problem>{'rotation180'}</problem>", 0.0),
    "a problem too many": ("coding", PROBLEM, "<problem>{'dark', 'rotation90', 'blur'}</problem>", 0.0),
    "one named twice": ("coding", "<problem>{'dark'}</problem>", "<problem>{'dark', 'dark'}</problem>", 0.0),
    "a lone rotation that is all": ("coding", TURNED, TURNED, 1.0),
    "no set": ("coding", PROBLEM, "<problem>rotation90, dark</problem>", 0.0),
    "a problem and code": ("coding", PROBLEM, PROBLEM + "<code>", 0.0),
    "a query's words": ("search", SEARCH, "<search> Blue fox city </search>", 2 / 3),  # 2 * 2 / (3 + 3)
    "a query and an answer": ("search", SEARCH, SEARCH + "<answer>", 0.0),
}  # fmt: skip


@pytest.mark.parametrize("case", ACCURACIES)
def test_accuracy(case):
    kind, target, completion, want = ACCURACIES[case]
    assert recorded.accuracy_score(kind, target, completion) == pytest.approx(want)


@pytest.mark.parametrize(
    "vectors, want",
    [
        ([[2.0, 0.0], [3.0, 0.0]], 1.0),
        ([[1.0, 1.0], [1.0, 0.0]], 0.5**0.5),
        ([[1.0, 3.0**0.5], [1.0, 0.0]], 0.5),  # at the threshold
        ([[1.0, 2.0], [1.0, 0.0]], 0.0),  # 0.447
        ([[-1.0, 0.0], [1.0, 0.0]], 0.0),
        ([[0.0, 0.0], [1.0, 0.0]], 0.0),
    ],
)
def test_queries_are_worth_their_cosine_from_a_half_on(vectors, want):
    seen = []

    def embed(texts):
        seen.append(tuple(texts))
        return np.array(vectors) * (1 + 1e-9)

    got = recorded.accuracy_score("search", SEARCH, "<search> vulpes town </search>", embed)
    assert got == pytest.approx(want) and seen == [("vulpes town", "red fox city")]
    assert recorded.accuracy_score("search", ANSWER, ANSWER, embed) == 1.0 and len(seen) == 1  # of queries alone


def test_embeddings_of_another_shape_are_an_error():
    with pytest.raises(ValueError, match=r"float\[n, D\] for n texts: got shape \(3,\)"):
        recorded.query_score("a", "b", lambda texts: np.zeros(3))


def test_the_total_of_a_recorded_step_is_form_and_accuracy_of_what_was_written_first():
    parts = score_trajectory(made("coding", PROBLEM, THINK + "<problem>{'rotation90'}</problem>", THINK + ANSWER))
    want = dict(format=1.0, f1=0.0, em=0.0, problem=0.5, step=0.5, accuracy=0.5, total=1.5)
    assert parts == want
    parts = score_trajectory(made("coding", ANSWER, THINK + "<answer>red fox</answer>", status=Status.ANSWERED))
    assert parts == dict(format=1.0, f1=1.0, em=1.0, problem=0.0, step=0.0, accuracy=1.0, total=2.0)
    parts = score_trajectory(made("coding", CODE, THINK + CODE), RewardWeights(format=0.5, accuracy=2.0, step=0.3))
    assert (parts["step"], parts["problem"], parts["total"]) == (0.9, 0.0, 0.5 + 2 * 0.9)
    # cut off by the token limit, and nothing at all
    assert score_trajectory(made("coding", PROBLEM, "<think> so", status=Status.TURN_TOKENS))["total"] == 0.0
    assert score_trajectory(made("search", ANSWER))["total"] == 0.0


def test_a_recorded_step_has_the_components_of_a_live_trajectory_and_takes_the_embedding():
    live = made("search", "", THINK + SEARCH)
    live = score_trajectory(Trajectory(**(vars(live) | {"task": Task("t", "search", "?", (), ("red fox",))})))
    step = made("search", SEARCH, THINK + "<search> vulpes </search>")
    parts = score_trajectory(step, embed=lambda texts: np.ones((2, 3)))
    assert parts.keys() == live.keys() and parts["total"] == pytest.approx(2.0)
    assert score_trajectory(step)["total"] == 1.0  # no word in common
    with pytest.raises(ValueError, match="must not be 'infra'"):
        score_trajectory(made("search", SEARCH, status=Status.INFRA))
