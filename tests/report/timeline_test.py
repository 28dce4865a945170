"""The picture of slots over time."""

import pytest

from arft_jax.report.timeline import timeline_plot
from arft_jax.rollout_trace import DECODE, EXTEND, PAUSED, Timeline


def test_the_picture_is_a_png_and_is_written(tmp_path):
    timeline = Timeline()
    timeline.spans = [(0, EXTEND, 0.0, 1.0), (0, DECODE, 1.0, 3.0), (2, PAUSED, 2.0, 4.0)]
    path = tmp_path / "slots.png"
    png = timeline_plot(timeline, "a & b", path)
    assert png.startswith(b"\x89PNG") and path.read_bytes() == png
    timeline.spans[2] = (2, DECODE, 2.0, 4.0)
    assert timeline_plot(timeline, "a & b") != png


def test_nothing_recorded_is_an_error():
    with pytest.raises(ValueError, match="at least one span"):
        timeline_plot(Timeline(), "x")
