"""The slots of one rollout over time as a picture."""

import io
import os
import pathlib

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from arft_jax.rollout.trace import DECODE, EXTEND, IDLE, PAUSED, Timeline

COLOURS = {DECODE: "#1f5fa8", EXTEND: "#c8641b", PAUSED: "#d9b44a", IDLE: "#f1f1ef"}
LABELS = {DECODE: "decode", EXTEND: "extend", PAUSED: "paused at a tool", IDLE: "idle"}


def timeline_plot(timeline: Timeline, name: str, path: str | os.PathLike | None = None) -> bytes:
    """One bar a slot: decoding, being extended, paused at a tool, idle.

    Args:
      timeline: a finished recording.
      name: title.
      path: also written there, where given.

    Returns:
      The PNG.

    Raises:
      ValueError: nothing was recorded.
    """
    stream = io.BytesIO()
    timeline_figure(timeline, name).savefig(stream, format="png")
    if path is not None:
        pathlib.Path(path).write_bytes(stream.getvalue())
    return stream.getvalue()


def timeline_figure(timeline: Timeline, name: str) -> Figure:
    """The figure that :func:`timeline_plot` writes, open to be read: a bar a slot, coloured by what it did."""
    shares, slots, end = timeline.shares(), timeline.slots, timeline.end_s
    figure = Figure(figsize=(11, 1.4 + 0.16 * len(slots)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for place, slot in enumerate(slots):
        axes.broken_barh([(0, end)], (place - 0.4, 0.8), facecolors=COLOURS[IDLE])
        mine = [span for span in timeline.spans if span[0] == slot]
        axes.broken_barh(
            [(begin, until - begin) for _, _, begin, until in mine],
            (place - 0.4, 0.8),
            facecolors=[COLOURS[state] for _, state, _, _ in mine],
        )
    axes.set(xlim=(0, end), ylim=(-0.6, len(slots) - 0.4), xlabel="seconds", ylabel="slot", title=name)
    axes.invert_yaxis()
    handles = [Patch(color=COLOURS[state], label=f"{LABELS[state]} {100 * shares[state]:.0f} %") for state in COLOURS]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    return figure
