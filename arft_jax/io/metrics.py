"""A run's metrics as JSON lines, and the progress line that a person watches.

One object a line, ``run_step`` first: the count of steps over all stages of the run, by which a resumed run finds the
rows that it is about to write again. A number that is not finite is written as null and read back as nan.
"""

import collections
import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from arft_jax.io import terminal


def _plain(value: Any) -> Any:
    """A str or bool as it is, any other scalar (numpy, JAX, Python) as an int or a float, None where not finite."""
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    number = value.item() if hasattr(value, "item") else float(value)
    return None if isinstance(number, float) and not math.isfinite(number) else number


def _parse(path: pathlib.Path) -> list[dict[str, Any]]:
    """The whole rows of a file; a last line that was cut short is left out."""
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    rows = []
    for n, line in enumerate(lines[:-1], 1):  # after the last newline: nothing, or a half-written line
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{path} must hold one JSON object a line: line {n} does not") from error
    return rows


def read_metrics(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Every row, in order; null becomes nan.

    Raises:
      ValueError: a line, other than a half-written last one, that is no JSON.
    """
    rows = _parse(pathlib.Path(path))
    return [{key: math.nan if value is None else value for key, value in row.items()} for row in rows]


class MetricsWriter:
    """Appends rows to a file, each flushed as it is written.

    Args:
      path: the file; its folder is made where it does not exist.
      resume_step: rows of later run steps are removed, as the run is about to write them again; so is a half-written
        last line. The default removes every row: a run that starts again.
    """

    def __init__(self, path: str | os.PathLike, resume_step: int = -1):
        path = pathlib.Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [row for row in _parse(path) if row["run_step"] <= resume_step] if path.exists() else []
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        temporary.replace(path)
        self._last = max((row["run_step"] for row in kept), default=-1)
        self._file = open(path, "a", encoding="utf-8")

    def write(self, run_step: int, values: Mapping[str, Any]) -> None:
        """Appends one row.

        Args:
          run_step: steps of the whole run so far; never falls from one row to the next.
          values: scalars (numpy and JAX ones too), strings and booleans by name.

        Raises:
          ValueError: a run_step below that of the row before.
        """
        if run_step < self._last:
            raise ValueError(f"run_step must not fall: got {run_step} after {self._last}")
        self._last = int(run_step)
        row = {"run_step": self._last} | {name: _plain(value) for name, value in values.items()}
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def format_seconds(seconds: float) -> str:
    """``H:MM:SS`` from an hour on, else ``M:SS``: 75 is ``1:15``, 3675 is ``1:01:15``."""
    minutes, s = divmod(max(0, round(seconds)), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"


class Progress:
    """Prints one line a step: ``grpo  12/100  reward 0.81  tokens/s 1234  4.1 s/step  ETA 6:01``.

    The time left follows from the median of the last steps, so that a compilation or an evaluation does not sway it.

    Args:
      name: the stage, first on the line.
      total: the stage's last step.
      start: steps finished before (a resumed run).
      out: where to print, standard output where None.
      clock: monotonic seconds.
    """

    WINDOW = 15

    def __init__(
        self,
        name: str,
        total: int,
        start: int = 0,
        out: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._name, self._total, self._done = name, total, start
        self._out, self._clock = out, clock
        self._last = clock()
        self._recent: collections.deque[float] = collections.deque(maxlen=self.WINDOW)

    def update(self, step: int, values: Mapping[str, Any]) -> str:
        """Prints and returns the line.

        Args:
          step: steps finished, 1 to ``total``.
          values: what to show, by label; whole from 100 on, three decimals below 10.
        """
        now = self._clock()
        n = max(1, step - self._done)
        self._recent.append((now - self._last) / n)
        self._last, self._done = now, step
        pace = sorted(self._recent)[len(self._recent) // 2]
        width = len(str(self._total))
        parts = [f"{self._name} {step:>{width}}/{self._total}"]
        parts += [f"{label} {_short(value)}" for label, value in values.items()]
        parts += [f"{pace:.1f} s/step", f"ETA {format_seconds(pace * (self._total - step))}"]
        line = "  ".join(parts)
        terminal.say(line, file=self._out or sys.stdout)
        return line


def _short(value: Any) -> str:
    value = _plain(value)
    if not isinstance(value, float):
        return "nan" if value is None else str(value)
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"
