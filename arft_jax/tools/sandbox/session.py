"""Variables that live from one call of a trajectory to the next, by running its accepted cells again.

A cell that ended well is kept; the next call runs the kept cells first, unheard, in the same process, and then
its own code. The other way would be a process held for each trajectory. Replay was chosen because the held
process would cost memory for every trajectory that thinks; because its death would lose, through no fault of
the policy's, what nothing can bring back; and because no process then lives longer than a call, so nothing
that code leaves running, or plants, survives it. What it costs is the time of the earlier cells, which is
inside the call's own time limit, and bounded by the number of cells.

Cells are deterministic: the generators are seeded from each cell's text, the same at first and when run again.
Images that a cell returned are not returned again: they are the trajectory's and have names by then.
"""

from collections.abc import Mapping

from arft_jax.tools.sandbox.broker import PythonSandbox
from arft_jax.trajectory import Image, Observation, ToolStatus

FULL = "The session is full: its earlier code is forgotten from here on."


class Session:
    """The calls of one trajectory; used by one thread at a time.

    Args:
      sandbox: runs the calls.
      max_cells: cells that are kept; when one more is accepted, all earlier ones are forgotten and the text says so.

    Raises:
      ValueError: if ``max_cells`` is below 1.
    """

    def __init__(self, sandbox: PythonSandbox, max_cells: int = 8):
        if max_cells < 1:
            raise ValueError(f"max_cells must be at least 1: got {max_cells}")
        self._sandbox = sandbox
        self._max_cells = max_cells
        self._cells: list[str] = []

    def run(self, source: str, images: Image | Mapping[str, Image]) -> Observation:
        """Runs a cell after the kept ones; see :meth:`PythonSandbox.report`."""
        observation = self._sandbox.report(source, images, tuple(self._cells)).observation
        if observation.status != ToolStatus.OK:
            return observation
        if len(self._cells) < self._max_cells:
            self._cells.append(source)
            return observation
        self._cells = []
        text = f"{observation.text}\n{FULL}".strip()
        return Observation(text, observation.images, observation.status, observation.seconds)
