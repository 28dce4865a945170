"""The table of an evaluation: our row beside the published ones, what is missing, and paired differences."""

import json

import numpy as np
import pytest

from arft_jax.report import evaluation as report
from arft_jax.rewards import aggregate

PART = {"n": 2, "f1": 50.0, "em": 25.5, "ci95": {"f1": [40.0, 60.0], "em": [20.25, 30.0]}}


def figures(n_items=200, n_asked=200, missing=(), items=None):
    return {
        "n_items": n_items, "n_asked": n_asked, "n_answered": n_asked - len(missing), "missing": list(missing),
        "table": {"simple": PART, "hard": PART, "avg": PART}, "items": items,
    }  # fmt: skip


def results(tools="on", **benchmarks):
    return {"system": "ours, step 3", "tools": tools, "image": "shown", "benchmarks": benchmarks}


def test_our_row_stands_above_the_eleven_of_the_paper():
    rows = report.rows_of(results(mat_coding=figures(), mini_coding=figures()))
    assert rows[0] == ("mat_coding", "ours, step 3", "yes", *("50.00", "25.50") * 3, "[40.00, 60.00]", "[20.25, 30.00]")
    assert rows[1] == ("", "GPT-4o", "no", "47.12", "38.57", "27.57", "15.38", "34.41", "23.50", "-", "-")
    assert rows[11][1:3] == ("Qwen2.5-VL-7B + Visual-ARFT", "yes") and rows[11][7:9] == ("50.68", "34.50")
    assert rows[12][0] == "mini_coding" and len(rows) == 13
    assert report.rows_of(results(tools="off", mini_coding=figures()))[0][2] == "no"


def test_text_and_markdown_hold_the_same_cells():
    made = results(mat_search=figures(150, 150))
    plain, markdown = report.plain(made).splitlines(), report.markdown(made).splitlines()
    assert len(plain) == 14 and len(markdown) == 14  # head, ruler, 12 rows
    for line, row in zip(plain[2:], report.rows_of(made), strict=True):
        assert all(cell in line for cell in row)
    assert len({line.count("|") for line in markdown}) == 1 and markdown[1].count("---:|") == 8


def test_a_part_of_the_items_is_said_to_be_one():
    assert report.title_of("mat_coding", figures()) == "mat_coding"
    assert report.title_of("mat_coding", figures(n_asked=50)) == "mat_coding (a part: 50 of 200 items)"
    lost = [{"id": 5, "question_id": "q5", "reason": "search: down"}]
    some = figures(n_asked=50, missing=lost)
    assert report.title_of("mat_coding", some) == "mat_coding (a part: 49 of 200 items, 1 not answered)"
    line = "mat_coding: 1 of 50 items were not answered, the same command tries them again: q5: search: down"
    assert report.missing_text(results(mat_coding=some, mat_search=figures())) == line
    assert report.markdown(results(mat_coding=some)).endswith(f"\n\n{line}\n")
    many = figures(missing=[{"id": i, "question_id": f"q{i}", "reason": "x"} for i in range(13)])
    assert report.missing_text(results(mat_coding=many)).endswith("q9: x; and 3 more")


def test_rows_of_other_items_than_the_published_ones_have_a_note():
    made = results(mat_coding=figures(8, 8), mat_search=figures(150, 150), mini_coding=figures(8, 8))
    note = "mat_coding: the published rows are of the 200 items of MAT, and the data directory has 8"
    assert report.notes(made) == note and report.markdown(made).endswith(f"\n\n{note}\n")
    lost = figures(8, 8, missing=[{"id": 5, "question_id": "q5", "reason": "x"}])
    assert report.notes(results(mat_coding=lost)).splitlines() == [note, report.missing_text(results(mat_coding=lost))]


@pytest.fixture
def other(tmp_path):
    """Another evaluation: items 1 to 40 of mat_coding, and a benchmark of its own."""
    rng = np.random.default_rng(0)
    (tmp_path / "mat_coding").mkdir()
    rows = [
        {"id": i, "f1": float(rng.random()), "em": float(rng.random() < 0.5), "split": "simple" if i <= 15 else "hard"}
        for i in range(1, 41)
    ]
    (tmp_path / "mat_coding" / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    record = {"system": "theirs", "benchmarks": {"mat_coding": {"n_items": 200, "sha256": "ab"}, "mini_coding": {}}}
    (tmp_path / "run.json").write_text(json.dumps(record))
    return tmp_path, rows


def test_differences_are_paired_over_the_items_that_both_have(other):
    """A numpy loop: items 11 to 40, in another order on our side."""
    folder, theirs = other
    rng, ids = np.random.default_rng(1), list(range(60, 10, -1))
    mine = {i: (float(rng.random()), float(rng.random() < 0.5)) for i in ids}
    items = {
        "ids": ids, "f1": [mine[i][0] for i in ids], "em": [mine[i][1] for i in ids],
        "splits": ["simple" if i <= 15 else "hard" for i in ids],
    }  # fmt: skip
    made = results(mat_coding=figures(n_asked=50, items=items), mat_search=figures(items=items))
    record = report.check_comparable(folder, {"mat_coding": "ab", "mat_search": "x"})
    found = report.compare(made, folder, record, n_resamples=300)
    assert list(found["benchmarks"]) == ["mat_coding"] and found["benchmarks"]["mat_coding"]["n"] == 30
    delta = found["benchmarks"]["mat_coding"]["delta"]
    for split, keep in (("simple", range(15, 10, -1)), ("hard", range(40, 15, -1)), ("avg", range(40, 10, -1))):
        for place, measure in enumerate(("f1", "em")):
            gains = [100 * (mine[i][place] - theirs[i - 1][measure]) for i in keep]
            assert delta[split][measure] == pytest.approx(sum(gains) / len(gains))
            drawn = np.random.default_rng(0).integers(0, len(gains), size=(300, len(gains)), dtype=np.int32)
            means = [sum(gains[at] for at in row) / len(gains) for row in drawn]
            assert delta[split]["ci95"][measure] == pytest.approx(aggregate.interval(np.array(means)))
    row = report.rows_of(made | {"compare": found})[12]
    assert row[1] == "difference to theirs, 30 items" and row[7] == f"{delta['avg']['f1']:+.2f}"


@pytest.mark.parametrize(
    "benchmarks, sentence",
    [
        (
            {"mat_search": "x"},
            "must share a benchmark to be compared: .* has mat_coding, mini_coding, this one mat_search",
        ),
        ({"mat_coding": "cd"}, "has a mat_coding of other items, 200 of them with sha256 ab, this one has cd"),
    ],
)
def test_what_cannot_be_compared_is_refused(other, benchmarks, sentence):
    with pytest.raises(ValueError, match=sentence):
        report.check_comparable(other[0], benchmarks)
    with pytest.raises(ValueError, match=r"must hold an evaluation: .*\(--compare\)"):
        report.check_comparable(other[0] / "mat_coding", benchmarks)
