"""Trajectories on disk: one JSON object a line, each image once as a PNG named by its content.

``<dir>/x.jsonl`` keeps its images in ``<dir>/images/<sha256>.png``, shared by every file of the folder. Text is plain
JSON; arrays are base64 of their little-endian bytes, so that tokens and log-probs come back bit for bit.
"""

import base64
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import PIL.Image

from arft_jax.data.images import encode_png
from arft_jax.protocol import Action, Answer, Malformed, ToolCall
from arft_jax.trajectory import Image, ImageSpan, Observation, Status, Task, ToolStatus, Trajectory, Turn

ACTIONS = {action.__name__: action for action in (ToolCall, Answer, Malformed)}
# What older files call a tool call: the tool, the name of its one argument, and how that stood in the file.
_OLDER = {
    "Search": ("search", "query", "query"),
    "Code": ("python", "code", "source"),
    "Problem": ("diagnose", "problems", "kinds"),
}
ARRAYS = ("tokens", "sampler_logps", "completion_mask", "observation_mask", "positions", "versions")


class _ImageStore:
    """The images of one folder, written and read once each."""

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        self._read: dict[str, np.ndarray] = {}

    def put(self, image: Image) -> dict[str, str]:
        path = self._folder / f"{image.sha256}.png"
        if not path.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".tmp")
            temporary.write_bytes(encode_png(image))
            temporary.replace(path)
        return {"sha256": image.sha256, "name": image.name}

    def get(self, record: dict[str, str]) -> Image:
        sha256 = record["sha256"]
        if sha256 not in self._read:
            path = self._folder / f"{sha256}.png"
            with PIL.Image.open(path) as file:
                pixels = np.asarray(file.convert("RGB"))
            if Image(pixels).sha256 != sha256:
                raise ValueError(f"{path} must hold the image it is named for: its pixels have another hash")
            self._read[sha256] = pixels
        return Image(self._read[sha256], record["name"])


def _pack(array: np.ndarray) -> dict[str, Any]:
    array = np.asarray(array)
    data = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    return {"dtype": array.dtype.name, "shape": list(array.shape), "base64": base64.b64encode(data).decode()}


def _unpack(record: dict[str, Any]) -> np.ndarray:
    dtype = np.dtype(record["dtype"])
    array = np.frombuffer(base64.b64decode(record["base64"]), dtype.newbyteorder("<"))
    return array.astype(dtype).reshape(record["shape"])


def _turn_record(turn: Turn, store: _ImageStore) -> dict[str, Any]:
    seen = turn.observation
    return {
        "text": turn.text,
        "action": {"type": type(turn.action).__name__} | dataclasses.asdict(turn.action),
        "span": [turn.start, turn.end],
        "in_form": turn.in_form,
        "observation": seen
        and {
            "text": seen.text,
            "images": [store.put(image) for image in seen.images],
            "status": seen.status.value,
            "seconds": seen.seconds,
        },
    }


def _turn(record: dict[str, Any], store: _ImageStore) -> Turn:
    seen = record["observation"]
    observation = seen and Observation(
        text=seen["text"],
        images=tuple(store.get(image) for image in seen["images"]),
        status=ToolStatus(seen["status"]),
        seconds=seen["seconds"],
    )
    action, in_form = _action(record["action"]), record.get("in_form", False)
    return Turn(record["text"], action, *record["span"], observation=observation, in_form=in_form)


def _action(record: dict[str, Any]) -> Action:
    values = {key: value for key, value in record.items() if key != "type"}
    if record["type"] in _OLDER:
        tool, argument, stood = _OLDER[record["type"]]
        return ToolCall(tool, {argument: values[stood]})
    return ACTIONS[record["type"]](**values)


def _record(trajectory: Trajectory, store: _ImageStore) -> dict[str, Any]:
    task = trajectory.task
    return {
        "task": {
            "id": task.id,
            "kind": task.kind,
            "question": task.question,
            "images": [store.put(image) for image in task.images],
            "answers": list(task.answers),
            "problems": list(task.problems),
            "split": task.split,
            "corpus": task.corpus,
            "query": task.query,
            "target": task.target,
            "tools": list(task.tools),
            "system": task.system,
            "task_set": task.task_set,
            "choices": list(task.choices),
            "extra": dict(task.extra),
        },
        "row": trajectory.row,
        "status": trajectory.status.value,
        "rewards": {name: float(value) for name, value in trajectory.rewards.items()},
        "turns": [_turn_record(turn, store) for turn in trajectory.turns],
        "images": [dataclasses.asdict(span) for span in trajectory.images],
        "info": trajectory.info,
        "prompt_len": trajectory.prompt_len,
    } | {name: _pack(getattr(trajectory, name)) for name in ARRAYS}


def _trajectory(record: dict[str, Any], store: _ImageStore) -> Trajectory:
    task = dict(record["task"])
    task |= {name: tuple(task[name]) for name in ("answers", "problems", "tools", "choices") if name in task}
    task["images"] = tuple(store.get(image) for image in task["images"])
    spans = (ImageSpan(**span | {"grid": tuple(span["grid"])}) for span in record["images"])
    return Trajectory(
        task=Task(**task),
        row=record["row"],
        prompt_len=record["prompt_len"],
        images=tuple(spans),
        turns=tuple(_turn(turn, store) for turn in record["turns"]),
        status=Status(record["status"]),
        rewards=record["rewards"],
        info=record["info"],
        **{name: _unpack(record[name]) for name in ARRAYS if name in record},  # older files have no versions
    )


def _with_suffix(path: str | os.PathLike) -> pathlib.Path:
    path = pathlib.Path(path)
    return path if path.suffix else path.with_suffix(".jsonl")


def _line(trajectory: Trajectory, store: _ImageStore) -> str:
    try:
        return json.dumps(_record(trajectory, store), ensure_ascii=False) + "\n"
    except TypeError as error:
        raise ValueError(
            f"a trajectory's info and its task's extra must be JSON: got {error} in {trajectory.task.id}"
        ) from error


def save_trajectories(path: str | os.PathLike, trajectories: Iterable[Trajectory]) -> None:
    """Writes the file again, by rename, so that a reader sees the old one or the new one.

    Args:
      path: the JSONL file, ``.jsonl`` added where it has no suffix; its folder is made where it does not exist.
      trajectories: with an ``info`` of JSON values.

    Raises:
      ValueError: an info that is no JSON.
    """
    path = _with_suffix(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    store = _ImageStore(path.parent / "images")
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        for trajectory in trajectories:
            file.write(_line(trajectory, store))
    temporary.replace(path)


class TrajectoryWriter:
    """Appends trajectories to a file, each flushed as it is written: a process that is killed loses at most a line.

    Args:
      path: the JSONL file, which may be there; its folder is made where it does not exist.
    """

    def __init__(self, path: str | os.PathLike):
        path = _with_suffix(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._store = _ImageStore(path.parent / "images")
        self._file = open(path, "a", encoding="utf-8")

    def write(self, trajectory: Trajectory) -> None:
        """Appends one; see :func:`save_trajectories`."""
        self._file.write(_line(trajectory, self._store))
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def load_trajectories(path: str | os.PathLike) -> list[Trajectory]:
    """Reads what :func:`save_trajectories` wrote.

    Raises:
      ValueError: an image file whose pixels are not those that were saved.
    """
    path = _with_suffix(path)
    store = _ImageStore(path.parent / "images")
    with open(path, encoding="utf-8") as file:
        return [_trajectory(json.loads(line), store) for line in file]
