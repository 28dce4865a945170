"""Peers as processes of their own environments: a name of a figure goes in as a line, its rate comes out as JSON."""

import json
import os
import pathlib
import subprocess
import tempfile
from collections.abc import Sequence

PEERS = ("transformers", "tunix")


class Peer:
    """One peer's process, kept warm between the repeats of a sitting.

    Args:
      name: for messages.
      python: of the environment in which the peer is installed.
      script: speaks the protocol: one line of JSON with ``versions`` and ``figures`` at the start, then for each line
        read one with ``rate``.

    Raises:
      ValueError: no such file, or a process that ends before it is ready.
    """

    def __init__(self, name: str, python: str, script: str | os.PathLike):
        for what, path in (("python", python), ("script", script)):
            if not pathlib.Path(path).is_file():
                raise ValueError(f"the {what} of {name} must be a file: got {str(path)!r} (--{name}_python)")
        self.name = name
        self._said = tempfile.TemporaryFile(mode="w+", encoding="utf-8")
        # CUDA_VISIBLE_DEVICES and the like are the caller's own: a peer runs where this process runs.
        self._process = subprocess.Popen(
            [python, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True
        )
        try:
            hello = self._read()
        except ValueError:
            self.close()
            raise
        self.versions: dict[str, str] = hello["versions"]
        self.figures: Sequence[str] = hello["figures"]

    def _read(self) -> dict:
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        self._process.wait()
        self._said.seek(0)
        last = [text.strip() for text in self._said.read().splitlines() if text.strip()][-1:] or ["no word"]
        raise ValueError(f"{self.name} ended with status {self._process.returncode}: {last[0]} (--{self.name}_python)")

    def measure(self, figure: str) -> float:
        """One repeat of a figure.

        Raises:
          ValueError: the process ended.
        """
        try:
            self._process.stdin.write(figure + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # _read says why
        return float(self._read()["rate"])

    def close(self) -> None:
        """Ends the process, which may be in the middle of a repeat."""
        self._process.terminate()
        self._process.communicate()
        self._said.close()

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
