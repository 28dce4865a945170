"""A run directory becomes a table, a plot and two pages."""

import json

from arft_jax.io import metrics
from arft_jax.report import run_report


def test_the_report_of_a_run_has_table_plot_and_pages(finished_run, capsys):
    config, directory = finished_run
    results = run_report.write_report(config, directory)
    delta = results["benchmarks"]["mini_coding"]["delta"]
    assert delta["avg"]["em"] == delta["hard"]["em"] == 100.0
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines()[2:6]] == ["mini_coding", "after", "delta", "no"]
    assert "[+100.00, +100.00]" in printed
    assert (directory.path / "reward.png").read_bytes().startswith(b"\x89PNG")
    assert "tiny &amp; small" in (directory.path / "report.html").read_text()
    assert json.loads((directory.path / "results.json").read_text()) == results


def test_shown_items_are_spaced_evenly_and_stand_beside_their_before(finished_run):
    config, directory = finished_run
    after, before = run_report.shown_trajectories(directory.path, ["mini_coding"], 3)
    assert [t.task.id for t in after] == ["t0", "t2", "t5"]
    assert len(before) == 6
    run_report.write_report(config, directory)
    page = (directory.path / "trajectories.html").read_text()
    assert page.count("<article") == 3 == page.count("<h3>before</h3>")


def test_the_plot_starts_and_ends_with_the_evaluations(finished_run):
    _, directory = finished_run
    benchmarks = run_report.results_by_benchmark(directory.results(), 50)
    rows = run_report.rows_with_ends(metrics.read_metrics(directory.path / "metrics.jsonl"), benchmarks)
    assert [(row["step"], row.get("eval/mini_coding/em")) for row in rows] == [
        (0, 0.0), (1, None), (2, None), (3, None), (4, None), (4, 100.0),
    ]  # fmt: skip


def test_a_run_that_is_not_over_has_no_delta(finished_run):
    _, directory = finished_run
    results = {name: value for name, value in directory.results().items() if name == "before"}
    assert list(run_report.results_by_benchmark(results, 50)["mini_coding"]) == ["before"]
