"""``requests.jsonl``: a line for each HTTP request, by which is seen what was asked, how often, and what it cost.

A line has ``time`` (UTC, when it was sent), ``benchmark``, ``item`` (from 1), ``question_id``, ``turn`` and ``try``
(from 1), ``status`` (of HTTP, null where no response came), ``outcome``, ``seconds``, ``model``, ``usage`` (null where
the server did not say), ``request_id`` and ``error`` (the server's words). Neither key nor message nor image is in it.
Of several processes each writes ``requests.<process>.jsonl``, which the first one joins.
"""

import enum
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from arft_jax.remote.costs import Meter, Usage

NAME = "requests"


class Outcome(enum.StrEnum):
    """What became of a request."""

    REPLY = "reply"  # a turn came back
    REFUSED = "refused"  # the server will not serve it
    FAILED = "failed"  # it could not be sent, or the server said that it did not serve it
    LOST = "lost"  # no whole response came, or none in time
    UNREADABLE = "unreadable"  # served, but no turn can be read in what came
    CUT = "cut"  # the evaluation ended while it was under way


# Of these nothing is owed unless the server says so; of the others that is not known.
_FREE = (Outcome.REFUSED, Outcome.FAILED)


class RequestLog:
    """Appends to the log of one process.

    Args:
      folder: of the evaluation.
      process: of several that write at once; None: the only one.
    """

    def __init__(self, folder: pathlib.Path, process: int | None = None):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{NAME}{'' if process is None else f'.{process}'}.jsonl"
        drop_cut_line(path)
        self._file = open(path, "a", encoding="utf-8")

    def write(self, record: Mapping[str, Any]) -> None:
        """Appends a line, which is on its way to the disk when this returns."""
        self._file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def drop_cut_line(path: pathlib.Path) -> None:
    """Takes off a last line that a kill cut short."""
    if not path.exists():
        return
    whole = path.read_bytes()
    end = whole.rfind(b"\n") + 1
    if end < len(whole):
        os.truncate(path, end)


def _parts(folder: pathlib.Path) -> list[pathlib.Path]:
    return [path for path in (folder / f"{NAME}.jsonl", *sorted(folder.glob(f"{NAME}.*.jsonl"))) if path.exists()]


def join_logs(folder: pathlib.Path) -> None:
    """Makes one log of those that several processes wrote; whatever ends it, no line is lost or there twice."""
    target = folder / f"{NAME}.jsonl"
    for path in sorted(folder.glob(f"{NAME}.*.jsonl")):
        for part in (path, target):
            drop_cut_line(part)
        whole, more = target.read_bytes() if target.exists() else b"", path.read_bytes()
        if not whole.endswith(more):  # else it was joined, and the process ended before the part was deleted
            temporary = target.with_name(target.name + ".tmp")
            temporary.write_bytes(whole + more)
            temporary.replace(target)
        path.unlink()


def read_log(folder: pathlib.Path) -> Iterator[dict[str, Any]]:
    """The lines of the log, but for one that was cut short.

    Raises:
      ValueError: another line that is no JSON object.
    """
    for path in _parts(folder):
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith("\n"):
                    continue
                try:
                    record = json.loads(line)
                except ValueError:
                    record = None
                if not isinstance(record, dict):
                    raise ValueError(f"{path} must hold one JSON object a line: line {number} is none (--out)")
                yield record


def open_meter(folder: pathlib.Path, meter: Meter) -> Meter:
    """The meter with what earlier sessions in a folder have spent.

    Raises:
      ValueError: a log of requests that is none.
    """
    for record in read_log(folder):
        count(meter, record, earlier=True)
    return meter


def count(meter: Meter, record: Mapping[str, Any], earlier: bool = False) -> None:
    """Adds a line of the log to what was spent."""
    usage = Usage(**record["usage"]) if record["usage"] else None
    outcome = Outcome(record["outcome"])
    meter.add(record["model"], outcome is Outcome.REPLY, outcome in _FREE, usage, earlier)
