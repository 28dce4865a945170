"""The final table: hand-checked cells, alignment, dashes for what is missing."""

import pytest

from arft_jax.report import table


def entry(f1, em, ci):
    part = {"f1": f1, "em": em, "ci95": {"f1": ci, "em": ci}}
    return {"simple": part, "hard": part, "avg": part}


RESULTS = {
    "mini_coding": {
        "without_tools": entry(20.0, 15.0, [10, 20]),
        "delta": entry(30.0, -5.5, [-7.25, 36]),
        "after": entry(42.5, 4.5, [1, 99]),
        "before": entry(12.5, 10.0, [5, 15]),
    },
    "mini_search": {"before": {"avg": {"f1": None, "em": 1.0, "ci95": None}}},
}


def test_rows_stand_in_the_papers_order_with_signed_deltas():
    rows = table.table_rows(RESULTS)
    assert [row[:2] for row in rows] == [
        ("mini_coding", "before"),
        ("", "after"),
        ("", "delta"),
        ("", "without tools"),
        ("mini_search", "before"),
    ]
    assert rows[2][2:] == ("+30.00", "-5.50") * 3 + ("[-7.25, +36.00]",) * 2
    assert rows[4][2:] == ("-", "-", "-", "-", "-", "1.00", "-", "-")


def test_plain_columns_are_aligned():
    lines = table.plain_table(RESULTS).splitlines()
    assert lines[0].split()[0] == "benchmark" and set(lines[1]) == {"-"}
    starts = [line.index(word) for line, word in zip(lines[2:5], ("12.50", "42.50", "+30.00"), strict=True)]
    ends = [start + len(word) for start, word in zip(starts, ("12.50", "42.50", "+30.00"), strict=True)]
    assert len(set(ends)) == 1 == len({len(line) for line in lines[2:5]})


def test_markdown_and_html_hold_the_same_cells():
    markdown = table.markdown_table(RESULTS).splitlines()
    assert len({line.count("|") for line in markdown}) == 1 and len(markdown) == 7
    assert "<td>[-7.25, +36.00]</td>" in table.html_table(RESULTS)
    assert "<script>" not in table.html_table({"<script>": {"before": {}}})


def test_deltas_are_paired_by_split():
    # simple: 0 -> 1 and 1 -> 1 (+50); hard: 1 -> 0 (-100); all: (100 + 0 - 100) / 3 = 0.
    before = {"em": [0, 1, 1], "f1": [0.5, 1, 1], "splits": ["simple", "simple", "hard"]}
    after = {"em": [1, 1, 0], "f1": [1, 1, 0], "splits": ["simple", "simple", "hard"]}
    delta = table.delta_by_split([(before, after)], n_resamples=50)
    assert delta["simple"]["em"] == pytest.approx(50)
    assert delta["hard"]["em"] == pytest.approx(-100)
    assert delta["avg"]["em"] == pytest.approx(0)
    assert delta["simple"]["f1"] == pytest.approx(25)
    low, high = delta["avg"]["ci95"]["em"]
    assert low <= 0 <= high
    with pytest.raises(ValueError, match="run 0 does not"):
        table.delta_by_split([(before, after | {"splits": ["hard"] * 3})])


def test_a_split_without_items_is_a_dash():
    side = {"em": [0.0], "f1": [0.0], "splits": ["hard"]}
    delta = table.delta_by_split([(side, side)], n_resamples=10)
    assert table.table_rows({"b": {"delta": delta}})[0][2] == "-"
