"""Variables that live from one call of a trajectory to the next, by running its accepted cells again.

A cell that ran to its end is kept; the next call runs the kept cells first, unheard, in the same process, and then
its own code (replay.py). The other way would be a process held for each trajectory. Replay was chosen because the held
process would cost memory for every trajectory that thinks; because its death would lose, through no fault of
the policy's, what nothing can bring back; and because no process then lives longer than a call, so nothing
that code leaves running, or plants, survives it. What it costs is the time of the earlier cells, which is
inside the call's own time limit: at most half of it.

Cells are deterministic: the generators are seeded from each cell's text, the same at first and when run again, and each
has the images of its time. What a cell returned is not returned again: it is the trajectory's and has a name.

What cannot be kept is given up and said, and the next cell starts afresh: no session is ever dead.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

from arft_jax.tools.call import Call
from arft_jax.tools.sandbox.broker import MAX_SOURCE_CHARS, PythonSandbox
from arft_jax.tools.sandbox.verdict import Report
from arft_jax.trajectory import Image, Observation, ToolStatus

# What the policy reads.
FULL = "Variables are forgotten from here on: the code so far is too much to run again."
GONE = "The variables of earlier code are gone."


class CodeSession:
    """The calls of one trajectory, one after the other. It holds text alone: nothing is to be closed.

    Args:
      max_cells: cells that are kept; when one more is accepted, all are forgotten and its text says so.

    Raises:
      ValueError: if ``max_cells`` is below 1.
    """

    def __init__(self, max_cells: int = 8):
        if max_cells < 1:
            raise ValueError(f"max_cells must be at least 1: got {max_cells}")
        self._max_cells = max_cells
        self._cells: list[tuple[str, int]] = []  # source, images that there were; never changed, only replaced

    def begin(
        self, sandbox: PythonSandbox, source: str, images: Mapping[str, Image]
    ) -> Callable[[Call | None], Observation]:
        """Prepares a cell.

        Args:
          sandbox: runs it.
          source: Python.
          images: by name, oldest first: those of the cell before and perhaps more.

        Returns:
          What runs it: see :meth:`PythonSandbox.report`. It may be run again, also late: that is the same cell, which
          is kept once, and not at all where another one was begun behind it and kept.

        Raises:
          ValueError: there are fewer images than before.
        """
        if self._cells and self._cells[-1][1] > len(images):
            raise ValueError(f"a session's images must not become fewer: got {len(images)} after {self._cells[-1][1]}")
        return functools.partial(self._run, sandbox, source, images, self._cells)

    def run(
        self, sandbox: PythonSandbox, source: str, images: Mapping[str, Image], call: Call | None = None
    ) -> Observation:
        """Runs a cell behind the kept ones; see :meth:`begin`."""
        return self.begin(sandbox, source, images)(call)

    def _run(
        self,
        sandbox: PythonSandbox,
        source: str,
        images: Mapping[str, Image],
        earlier: list[tuple[str, int]],
        call: Call | None,
    ) -> Observation:
        cells, before, behind = earlier, "", ""
        report = sandbox.report(source, images, cells, call)
        if not report.was_replayed and report.observation.status != ToolStatus.INFRA:  # the code itself has not run
            cells, before = [], GONE
            report = sandbox.report(source, images, cells, call)
        seen = report.observation
        if seen.status == ToolStatus.INFRA:
            return seen
        if seen.status == ToolStatus.LIMIT:  # the kept cells may have had their share in it
            cells, behind = [], GONE if cells else ""
        elif report.exit == "0":
            cells = [*cells, (source, len(images))]
            if self._is_full(cells, report, sandbox):
                cells, behind = [], FULL
        if self._cells is earlier:
            self._cells = cells
        return dataclasses.replace(seen, text="\n".join(filter(None, (before, seen.text, behind))))

    def _is_full(self, cells: list[tuple[str, int]], report: Report, sandbox: PythonSandbox) -> bool:
        n_chars = sum(len(source) for source, _ in cells)
        too_slow = report.seconds > sandbox.timeout_s / 2
        return len(cells) > self._max_cells or n_chars > MAX_SOURCE_CHARS or too_slow
