"""Token F1 and exact match, English and Chinese."""

import json
import os
import pathlib

import numpy as np
import pytest

from arft_jax.evaluate import scoring
from arft_jax.rewards import text

MAT = pathlib.Path(
    os.environ.get("ARFT_MAT_DIR", pathlib.Path(__file__).resolve().parents[3] / "shared" / "data" / "mat")
)
PUBLISHED = [
    ("mat_coding", "mat_coding", 0, {"simple": (49.78, 40.00), "hard": (28.42, 13.08), "avg": (35.90, 22.50)}),
    ("mat_search", "mat_search", 8, {"simple": (59.64, 54.67), "hard": (47.75, 37.33), "avg": (53.70, 46.00)}),
    ("qa", "bamboogle", 5, {"avg": (49.01, 38.40)}),
]


def _published(name):
    path = MAT / f"predictions_{name}_visual_arft_3b.json"
    if not path.exists():
        pytest.skip(f"needs the published predictions of Visual-ARFT-3B: {path.name} is not in ARFT_MAT_DIR")
    return path


@pytest.mark.parametrize("benchmark, name, missing, figures", PUBLISHED)
def test_published_predictions_give_the_published_figures(benchmark, name, missing, figures):
    scores = scoring.score_file(str(_published(name)), benchmark)
    assert scores["missing"] == missing
    assert [part for part in ("simple", "hard", "avg") if part in scores] == list(figures)
    for part, (f1, em) in figures.items():
        assert scores[part]["f1"] == pytest.approx(f1, abs=0.0051)  # two published decimals
        assert scores[part]["em"] == pytest.approx(em, abs=0.0051)


def test_shuffled_file_scores_as_the_file_in_order(tmp_path):
    records = json.loads(_published("mat_coding").read_text())
    np.random.default_rng(0).shuffle(records)
    path = tmp_path / "shuffled.json"
    path.write_text(json.dumps(records))
    assert scoring.score_file(str(path), "mat_coding")["simple"]["f1"] == pytest.approx(49.78, abs=0.0051)


@pytest.mark.parametrize(
    "prediction, answers, f1, em",
    [
        ("The Cat.", ["cat"], 1, 1),
        ("red cat", ["cat"], 2 / 3, 0),  # p 1/2, r 1
        ("cat cat cat", ["cat"], 1 / 2, 0),  # set over lists: p 1/3, r 1
        ("dog", ["cat"], 0, 0),
        ("dog", ["cat", "Dog!"], 1, 1),
        ("A", ["A"], 1, 1),  # an article alone still equals itself
        ("$20,689", ["$ 20,689"], 1, 1),
        (None, ["cat"], 0, 0),
        ("  ", ["A"], 0, 0),  # blank is missing, though "A" normalises to nothing
    ],
)
def test_english_hand_values(prediction, answers, f1, em):
    assert text.score_answer(prediction, answers) == pytest.approx((f1, em))


@pytest.mark.parametrize(
    "prediction, answers, f1, em",
    [
        ("软件 工程。", ["软件工程"], 1, 1),
        ("软件", ["软件工程"], 2 / 3, 0),  # p 1, r 1/2
        ("软件《a》", ["软件a"], 1, 1),  # marks go, articles stay where the text is Chinese
        ("金额：５", ["金额５"], 1, 1),
        ("a b", ["甲b"], 2 / 3, 0),  # "b" by characters against "甲b": the article went first
        ("b c", ["甲b"], 2 * 1 / (3 + 2), 0),  # the other side keeps its space as a character
        ("甲\n乙", ["甲乙"], 4 / 5, 0),  # spaces go, line breaks stay
    ],
)
def test_chinese_hand_values(prediction, answers, f1, em):
    assert text.score_answer(prediction, answers, chinese=True) == pytest.approx((f1, em))


def test_english_rule_leaves_chinese_text_whole():
    assert text.score_answer("软件", ["软件工程"]) == (0.0, 0.0)


def test_no_answers_is_an_error():
    with pytest.raises(ValueError, match="answers must be a sequence of at least one text"):
        text.score_answer("x", [])
    with pytest.raises(ValueError, match="got 'x'"):
        text.score_answer("x", "x")
