"""Several evaluations in one table: what is refused; the table itself is in tests/commands/evaluate_public_test.py."""

import json

import pytest

from arft_jax.report import side_by_side
from arft_jax.rewards import aggregate


def write(folder, sha256="a", finished=True, n_items=2, benchmark="mat_coding"):
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"benchmarks": {benchmark: {"sha256": sha256}}}))
    figures = dict(n_items=n_items, n_asked=2, n_answered=2, missing=[], categories={})
    figures["table"] = aggregate.by_split([1.0, 0.0], [1.0, 0.0], ["simple", "hard"], n_resamples=20)
    results = dict(system=folder.name, tools="on", image="shown", benchmarks={benchmark: figures})
    if finished:
        (folder / "results.json").write_text(json.dumps(results))
    return str(folder)


def test_each_evaluation_has_a_row_and_the_published_ones_stand_below(tmp_path):
    folders = [write(tmp_path / "x"), write(tmp_path / "y"), write(tmp_path / "part", n_items=9)]
    rows = side_by_side.rows_of(side_by_side.read(folders))
    assert [row[:2] for row in rows[:4]] == [
        ("mat_coding", "x"), ("", "y"), ("mat_coding (a part: 2 of 9 items)", "part"), ("", "GPT-4o"),
    ]  # fmt: skip
    assert len(rows) == 3 + 11 and rows[0][3:9] == ("100.00", "100.00", "0.00", "0.00", "50.00", "50.00")
    both = side_by_side.rows_of(side_by_side.read([folders[0], write(tmp_path / "z", benchmark="mini_coding")]))
    assert [row[0] for row in both if row[0]] == ["mat_coding", "mini_coding"]
    assert len(json.loads(side_by_side.render(side_by_side.read(folders), "json"))) == 3
    assert side_by_side.render(side_by_side.read(folders), "markdown").startswith("| benchmark | system |")


def test_other_items_and_unfinished_evaluations_are_refused(tmp_path):
    first = write(tmp_path / "x")
    with pytest.raises(ValueError, match="must be of the same items: .*x and .*y have another mat_coding"):
        side_by_side.read([first, write(tmp_path / "y", sha256="b")])
    with pytest.raises(ValueError, match="must be finished: .*results.json"):
        side_by_side.read([write(tmp_path / "z", finished=False)])
    with pytest.raises(ValueError, match="the folder must hold an evaluation: .*--evaluations"):
        side_by_side.read([str(tmp_path)])
