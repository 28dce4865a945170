"""The files of an evaluation: what was asked of whom, and every answer as it comes, so that nothing is asked twice.

    <out>/run.json                          whose figures these are: policy, configuration, tools, images, benchmarks
    <out>/<benchmark>/predictions.jsonl     a line for each item that was answered, in the order of their ends
    <out>/<benchmark>/trajectories.jsonl    the same items as whole trajectories, scores included (io/trajectories.py)
    <out>/<benchmark>/faults.jsonl          a line for each time that an infrastructure failure ended an item

A trajectory is written before its prediction, and an item counts as answered where its prediction is whole. What a kill
left behind, a line cut short or a trajectory without its prediction, is dropped when the files are opened again. Of
several processes each appends to files of its own (``predictions.<process>.jsonl``), which the first one joins when an
evaluation begins and ends: all of them must see ``<out>`` under one path, as they must a work directory.
"""

import json
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from arft_jax.io.run_record import differences, flatten, versions, write_json
from arft_jax.io.trajectories import TrajectoryWriter
from arft_jax.trajectory import Trajectory

PREDICTIONS, TRAJECTORIES, FAULTS = "predictions", "trajectories", "faults"
RECORD = "run.json"


# ------------------------------------------------------------------------ whose


def read_record(out: pathlib.Path, flag: str) -> dict[str, Any]:
    """The record of an evaluation.

    Args:
      out: its folder.
      flag: that named it, for the message.

    Raises:
      ValueError: there is no evaluation in the folder.
    """
    try:
        record = json.loads((out / RECORD).read_text(encoding="utf-8"))
        if not isinstance(record["benchmarks"], dict):
            raise TypeError("benchmarks")
        return record
    except (OSError, ValueError, KeyError, TypeError) as error:
        where = f"{out / RECORD} is not its record ({error})"
        raise ValueError(f"the folder must hold an evaluation: {where} ({flag})") from error


def open_record(
    out: pathlib.Path,
    same: Mapping[str, Any],
    told: Mapping[str, Any],
    benchmarks: Mapping[str, Mapping[str, Any]],
) -> None:
    """Writes the record of an evaluation, or adds to the one that is there.

    Args:
      out: the folder; made where it does not exist.
      same: what must be the same in every session: JSON values, nested.
      told: what else is written, as it is now.
      benchmarks: ``{name: {"n_items", "sha256", ...}}``; other benchmarks of the record stay.

    Raises:
      ValueError: the folder holds an evaluation of another policy, configuration, toolbox, kind of images or of other
        items, or something else; the differences are named.
    """
    same = json.loads(json.dumps(same))
    record: dict[str, Any] = {"benchmarks": {}, "versions": []}
    if (out / RECORD).exists():
        record = read_record(out, "--out")
        _check_same(out, record, same, benchmarks)
    elif out.exists() and (not out.is_dir() or any(path.name != "data" for path in out.iterdir())):
        raise ValueError(f"the folder must be new, empty or hold an evaluation: {out} holds other files (--out)")
    record |= {**told, **same}
    record["benchmarks"] |= benchmarks
    record["versions"] += [now for now in [versions()] if now not in record["versions"]]
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / RECORD, record)


def _check_same(out: pathlib.Path, record: Mapping[str, Any], same: Mapping[str, Any], benchmarks) -> None:
    shown = differences(flatten({key: record.get(key) for key in same}), flatten(same))
    if not shown:
        common = sorted(record["benchmarks"].keys() & benchmarks.keys())
        sides = [{f"{name}.sha256": of[name]["sha256"] for name in common} for of in (record["benchmarks"], benchmarks)]
        shown = differences(*sides)
    if shown:
        raise ValueError(
            f"the folder must hold an evaluation of the same policy on the same items: {out} has {shown}; ask as "
            "before or choose another folder (--out)"
        )


# ------------------------------------------------------------------------ lines


def read_lines(path: pathlib.Path) -> tuple[list[dict[str, Any]], bool]:
    """(records of a JSONL file, whether it ends with a line that was cut short, which is left out).

    Raises:
      ValueError: another line that is no JSON object.
    """
    *whole, rest = path.read_bytes().split(b"\n") if path.exists() else [b""]
    records = []
    for number, line in enumerate(whole, 1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise ValueError(f"{path} must hold one JSON object a line: line {number} is none (--out)")
        records.append(record)
    return records, bool(rest)


def predictions_of(folder: pathlib.Path) -> dict[int, dict[str, Any]]:
    """Predictions of a benchmark's folder by the item's number; the first of two counts."""
    found: dict[int, dict[str, Any]] = {}
    for path in _parts(folder, PREDICTIONS):
        for record in read_lines(path)[0]:
            found.setdefault(record["id"] - 1, record)
    return found


def faults_of(folder: pathlib.Path) -> dict[int, dict[str, Any]]:
    """The last infrastructure failure of each item that had one, by the item's number."""
    return {record["id"] - 1: record for path in _parts(folder, FAULTS) for record in read_lines(path)[0]}


def _parts(folder: pathlib.Path, name: str) -> list[pathlib.Path]:
    """The file of that name and those of single processes."""
    return [path for path in (folder / f"{name}.jsonl", *sorted(folder.glob(f"{name}.*.jsonl"))) if path.exists()]


def join_parts(folder: pathlib.Path) -> None:
    """Makes one whole file of each kind of what earlier sessions left: no line cut short, none of an item twice."""
    answered = predictions_of(folder)
    keys: dict[str, Callable[[dict[str, Any]], Any]] = {
        TRAJECTORIES: lambda record: record["info"]["item"],
        PREDICTIONS: lambda record: record["id"] - 1,
        FAULTS: lambda record: None,
    }
    for name, key in keys.items():
        paths, kept, seen, is_whole = _parts(folder, name), [], set(), True
        for path in paths:
            records, was_cut = read_lines(path)
            is_whole &= not was_cut
            for record in records:
                number = key(record)
                if number is None or (number in answered and number not in seen):
                    kept.append(record)
                    seen.add(number)
                else:
                    is_whole = False
        target = folder / f"{name}.jsonl"
        if is_whole and paths in ([], [target]):
            continue
        temporary = target.with_name(target.name + ".tmp")
        lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in kept)
        temporary.write_text("".join(lines), encoding="utf-8")
        temporary.replace(target)
        for path in paths:
            if path != target:
                path.unlink()


class Ledger:
    """Writes down how the items of one benchmark ended, as they end.

    Args:
      folder: of the benchmark; its parts are joined.
      process: of several that write at once, whose number names its files; None: the only one.
    """

    def __init__(self, folder: pathlib.Path, process: int | None = None):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.answered = set(predictions_of(folder))  # numbers of items
        part = "" if process is None else f".{process}"
        self._trajectories = TrajectoryWriter(folder / f"{TRAJECTORIES}{part}.jsonl")
        self._predictions, self._faults = (
            open(folder / f"{name}{part}.jsonl", "a", encoding="utf-8") for name in (PREDICTIONS, FAULTS)
        )

    def add(self, number: int, prediction: Mapping[str, Any], trajectory: Trajectory) -> None:
        """Writes down an item that was answered."""
        self._trajectories.write(trajectory)
        _append(self._predictions, {"id": number + 1, **prediction})
        self.answered.add(number)

    def add_fault(self, number: int, fault: Mapping[str, Any]) -> None:
        """Writes down that an infrastructure failure ended an item."""
        _append(self._faults, {"id": number + 1, **fault})

    def close(self) -> None:
        """Closes the files."""
        for file in (self._trajectories, self._predictions, self._faults):
            file.close()

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _append(file: Any, record: Mapping[str, Any]) -> None:
    file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
    file.flush()


def scores_of(predictions: Iterable[Mapping[str, Any]]) -> dict[str, list]:
    """``{"ids", "f1", "em", "splits", "groups", "categories"}``, one entry a prediction.

    What has no group is one by itself, what has no category has an empty one.
    """
    predictions = list(predictions)
    return {
        "ids": [record["id"] for record in predictions],
        "f1": [record["f1"] for record in predictions],
        "em": [record["em"] for record in predictions],
        "splits": [record["split"] for record in predictions],
        "groups": [record.get("group", record["id"]) for record in predictions],
        "categories": [record.get("category", "") for record in predictions],
    }
