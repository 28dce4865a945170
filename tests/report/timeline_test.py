"""The picture of slots over time."""

import pytest

from arft_jax.report.timeline import timeline_figure, timeline_plot
from arft_jax.rollout.trace import DECODE, EXTEND, IDLE, PAUSED, Timeline


def test_the_picture_is_a_png_and_is_written(tmp_path):
    timeline = Timeline()
    timeline.spans = [(0, EXTEND, 0.0, 1.0), (0, DECODE, 1.0, 3.0), (2, PAUSED, 2.0, 4.0)]
    path = tmp_path / "slots.png"
    png = timeline_plot(timeline, "a & b", path)
    assert png.startswith(b"\x89PNG") and path.read_bytes() == png
    timeline.spans[2] = (2, DECODE, 2.0, 4.0)
    assert timeline_plot(timeline, "a & b") != png


def test_a_slot_that_was_never_used_is_idle_throughout():
    timeline = Timeline(n_slots=4)
    timeline.spans = [(0, EXTEND, 0.0, 1.0), (0, DECODE, 1.0, 3.0), (2, PAUSED, 2.0, 4.0)]
    # of four slots and 4 s: 1, 2 and 2 of 16 slot-seconds
    assert timeline.shares() == {EXTEND: 1 / 16, DECODE: 2 / 16, PAUSED: 2 / 16, IDLE: 11 / 16}
    figure = timeline_figure(timeline, "a & b")
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["decode 12 %", "extend 6 %", "paused at a tool 12 %", "idle 69 %"]
    axes = figure.axes[0]
    assert (axes.get_title(), axes.get_xlabel(), axes.get_ylabel()) == ("a & b", "seconds", "slot")
    assert len(axes.collections) == 2 * 4 and axes.get_xlim() == (0, 4)
    boxes = [[path.get_extents().intervalx.tolist() for path in bar.get_paths()] for bar in axes.collections]
    assert boxes == [[[0, 4]], [[0, 1], [1, 3]], [[0, 4]], [], [[0, 4]], [[2, 4]], [[0, 4]], []]


def test_nothing_recorded_is_an_error():
    with pytest.raises(ValueError, match="at least one span"):
        timeline_plot(Timeline(), "x")
