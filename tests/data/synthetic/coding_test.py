import collections
import re

import pytest

from arft_jax.data.synthetic import coding, degrade


def test_an_item_follows_from_seed_split_and_index():
    a, b = coding.make_item(1, "train", 5).task(), coding.make_item(1, "train", 5).task()
    assert (a.question, a.answers, a.images[0].sha256) == (b.question, b.answers, b.images[0].sha256)
    others = [coding.make_item(2, "train", 5), coding.make_item(1, "test", 5), coding.make_item(1, "train", 6)]
    assert len({a.images[0].sha256, *(item.task().images[0].sha256 for item in others)}) == 4


def test_the_test_split_has_mats_shares():
    items = [coding.make_item(0, "test", i) for i in range(coding.N_TEST)]
    assert [item.split for item in items] == ["simple"] * 70 + ["hard"] * 130
    simple = collections.Counter(item.kinds for item in items[:70])
    assert set(simple.values()) == {10} and len(simple) == 7
    hard = collections.Counter(item.kinds for item in items[70:])
    assert hard[("crop",)] == 65 and {kinds for kinds in hard if len(kinds) == 2} == set(degrade.PAIRS)
    assert len({item.id for item in items}) == 200


def test_the_training_split_holds_every_problem_set():
    kinds = collections.Counter(coding.make_item(0, "train", i).kinds for i in range(600))
    assert set(kinds) == set(degrade.PROBLEM_SETS)
    hard = sum(n for k, n in kinds.items() if len(k) == 2 or k == ("crop",)) / 600
    assert abs(hard - coding.HARD_FRAC) < 0.08


def test_answers_are_numbers_or_figure_and_number():
    for i in range(60):
        item = coding.make_item(0, "train", i)
        (answer,) = item.answers
        assert re.fullmatch(r"(?:(?:Circle|Square|Triangle|Star) )?[1-9][0-9]", answer)
        assert (" " in answer) == ("figure" in item.question)


def test_crop_shows_the_sheet_and_asks_for_one_cell():
    item = coding.make_item(0, "train", 0, kinds=("crop",))
    task = item.task()
    assert task.images[0].size == (168, 168) and item.processed.shape == (84, 84, 3)
    assert re.search(r"\[\d+, \d+, \d+, \d+\]", task.question) and task.split == "hard"


def test_clean_tasks_are_clean_and_new():
    tasks = coding.clean_tasks(0, 5)
    assert all(task.problems == ("none",) for task in tasks)
    training = {coding.make_item(0, "train", i).id for i in range(50)}
    assert not training & {task.id for task in tasks}


def test_unknown_split_is_refused():
    with pytest.raises(ValueError, match="split"):
        coding.make_item(0, "dev", 0)
