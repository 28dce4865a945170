"""Trajectories of requests as they end, in the format of rollouts: what any client does becomes data to train on."""

import concurrent.futures
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging

from arft_jax.io.trajectories import TrajectoryWriter
from arft_jax.trajectory import Trajectory

FILE_NAME = "trajectories.jsonl"


class Recorder:
    """Writes ``FOLDER/trajectories.jsonl`` and its images in a thread of its own; a file that is there is added to.

    Args:
      folder: where.
    """

    def __init__(self, folder: pathlib.Path):
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = TrajectoryWriter(folder / FILE_NAME)
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "recorder")
        self.n_failed = 0

    def put(self, rows: Sequence[Trajectory], info: Mapping[str, Any]) -> None:
        """Queues the trajectories of a request, with what else is to be known of it."""
        self._thread.submit(self._write, list(rows), dict(info))

    def _write(self, rows: list[Trajectory], info: dict[str, Any]) -> None:
        for row in rows:
            try:
                self._writer.write(dataclasses.replace(row, info=row.info | info))
            except (OSError, ValueError) as error:  # a full disk must not end the server
                self.n_failed += 1
                logging.error("a trajectory could not be recorded: %s", error)

    def close(self) -> None:
        """Writes what is queued and closes the file."""
        self._thread.shutdown()
        self._writer.close()
