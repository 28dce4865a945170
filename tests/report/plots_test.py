"""The reward plot shows what the metrics hold; the report page is self-contained."""

import io
import math

import numpy as np
import PIL.Image

from arft_jax.report import plots

ROWS = [{"step": 0, "eval/mini_coding/em": 20.0}] + [
    {"step": step, "reward": step / 20, "reward/format": 1.0, "reward/accuracy": 0.1 if step % 2 else math.nan}
    for step in range(1, 21)
]


def pixels(png):
    return np.asarray(PIL.Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def test_a_series_takes_only_finite_values_that_are_there():
    steps, values = plots.series(ROWS, "reward/accuracy")
    assert steps.tolist() == list(range(1, 21, 2)) and set(values) == {0.1}
    assert len(plots.series(ROWS, "absent")[0]) == 0


def test_the_running_mean_is_centred_and_cut_at_the_ends():
    assert plots.running_mean(np.array([0.0, 3.0, 6.0]), 3).tolist() == [1.5, 3.0, 4.5]


def test_evaluations_are_found_by_benchmark():
    found = plots.evaluation_series([*ROWS, {"step": 20, "eval/mini_coding/em": 55.0}])
    assert list(found) == ["mini_coding"]
    assert [x.tolist() for x in found["mini_coding"]] == [[0, 20], [20, 55]]


def test_the_plot_is_a_png_that_follows_the_data(tmp_path):
    png = plots.reward_plot(ROWS, "tiny", tmp_path / "reward.png")
    assert (tmp_path / "reward.png").read_bytes() == png
    flat = plots.reward_plot([row | {"reward": 0.5} for row in ROWS], "tiny")
    assert pixels(png).shape == pixels(flat).shape
    assert np.any(pixels(png) != pixels(flat))


def test_a_run_without_rows_still_has_a_plot():
    assert pixels(plots.reward_plot([], "empty")).std() > 0


def test_the_report_holds_table_plot_and_facts(tmp_path):
    results = {"mini_coding": {"before": {"avg": {"f1": 1.0, "em": 2.0, "ci95": None}}}}
    path = tmp_path / "report.html"
    plots.write_report(path, "<tiny>", results, b"png", {"jax": "<0>"}, trajectories="trajectories.html")
    text = path.read_text()
    assert "&lt;tiny&gt;" in text and "<tiny>" not in text and "&lt;0&gt;" in text
    assert "data:image/png;base64,cG5n" in text and 'href="trajectories.html"' in text
    assert '<td><bdi dir="auto">mini_coding</bdi></td>' in text and "http://" not in text and "https://" not in text
