"""Metrics survive a kill and a resume; the progress line says when it will be over."""

import io
import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from arft_jax.io import metrics


def test_rows_come_back_with_plain_numbers(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    with metrics.MetricsWriter(path) as writer:
        writer.write(1, {"reward": jnp.float32(0.5), "n": np.int64(3), "stage": "grpo", "kl": float("nan")})
        assert len(metrics.read_metrics(path)) == 1  # flushed, not closed
    (row,) = metrics.read_metrics(path)
    assert list(row) == ["run_step", "reward", "n", "stage", "kl"]
    assert row["reward"] == 0.5 and row["n"] == 3 and row["stage"] == "grpo" and math.isnan(row["kl"])
    assert json.loads(path.read_text())["kl"] is None  # strict JSON: any reader can read it


def test_resume_drops_later_rows_and_a_half_written_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with metrics.MetricsWriter(path) as writer:
        for step in range(5):
            writer.write(step, {"x": step})
    with open(path, "a") as file:
        file.write('{"run_step": 5, "x"')
    assert [row["run_step"] for row in metrics.read_metrics(path)] == [0, 1, 2, 3, 4]
    with metrics.MetricsWriter(path, resume_step=2) as writer:
        writer.write(3, {"x": 30})
    assert [(row["run_step"], row["x"]) for row in metrics.read_metrics(path)] == [(0, 0), (1, 1), (2, 2), (3, 30)]


def test_a_new_run_starts_an_empty_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for _ in range(2):
        with metrics.MetricsWriter(path) as writer:
            writer.write(0, {})
    assert len(metrics.read_metrics(path)) == 1


def test_rows_come_in_the_order_of_the_run(tmp_path):
    with metrics.MetricsWriter(tmp_path / "metrics.jsonl") as writer:
        writer.write(300, {"phase": "warm_start", "step": 300})
        with pytest.raises(ValueError, match="must not fall: got 1 after 300"):
            writer.write(1, {"phase": "grpo", "step": 1})


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"run_step": 1}\n{"ru\n{"run_step": 3}\n')
    with pytest.raises(ValueError, match="line 2 does not"):
        metrics.read_metrics(path)


def test_the_progress_line_estimates_from_the_median_step():
    # Steps of 2 s, one of 50 s: 7 steps left at 2 s are 14 s.
    times = iter([0.0, 2.0, 52.0, 54.0])
    out = io.StringIO()
    progress = metrics.Progress("grpo", 10, out=out, clock=lambda: next(times))
    progress.update(1, {"reward": 0.25})
    progress.update(2, {"reward": 0.5})
    line = progress.update(3, {"reward": np.float32(0.75), "tokens/s": 1234.4})
    assert line == "grpo  3/10  reward 0.750  tokens/s 1234  2.0 s/step  ETA 0:14"
    assert out.getvalue().splitlines()[-1] == line


def test_seconds_are_read_as_a_clock():
    assert [metrics.format_seconds(s) for s in (0, 75, 3675)] == ["0:00", "1:15", "1:01:15"]
