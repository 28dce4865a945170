"""The letter that an answer names: every rule by examples, and what names none."""

import pytest

from arft_jax.rewards import aggregate, choice

OPTIONS = ("rubber", "the cotton", "kevlar", "leather")
NAMED = {
    "A": ("A", "a", " (a) ", "A.", "(A) rubber", "a: rubber", "The answer is (A)", "answer: A", "It is rubber."),
    "B": ("(B)", "Option B", "I choose B", "cotton", "B, cotton", "Cotton!", "It must be (B), since A glove is cotton"),
    "D": ("D", "d) leather", "The correct option is D.", "brown leather"),
    None: (
        "", "A glove", "E", "B or C", "(A) or (B)", "rubber or leather", "Rubberised", "Answer A, or answer B",
        "none of them", "I",
    ),
}  # fmt: skip


@pytest.mark.parametrize("letter, answer", [(letter, answer) for letter, said in NAMED.items() for answer in said])
def test_an_answer_names_a_letter_or_none(letter, answer):
    assert choice.letter_of(answer, OPTIONS) == letter


def test_the_score_is_of_the_letter_alone():
    assert choice.score_choice("(B) rubber", OPTIONS, "B") == 1.0  # the letter goes before the text
    assert choice.score_choice("rubber", OPTIONS, "B") == choice.score_choice(None, OPTIONS, "B") == 0.0
    assert choice.score_choice("C", OPTIONS[:2], "B") == 0.0


def test_the_mean_of_the_rotations_of_a_question_is_one_item():
    """HR-Bench takes the mean over four rotations of their accuracies: the mean over questions of these means."""
    right = [1, 1, 0, 1, 0, 0, 0, 1]  # two questions, four rotations each
    groups = [0, 0, 0, 0, 1, 1, 1, 1]
    f1, em, splits = aggregate.by_group(right, right, [""] * 8, groups)
    assert f1 == em == [0.75, 0.25] and splits == ["", ""]
    of_rotations = [(right[i] + right[4 + i]) / 2 for i in range(4)]
    assert sum(of_rotations) / 4 == sum(f1) / 2
    table = aggregate.by_split(f1, em, splits, n_resamples=50)
    assert table["avg"]["n"] == 2 and table["avg"]["em"] == 50.0 and table["simple"]["n"] == 0
