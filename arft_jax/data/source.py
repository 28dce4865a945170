"""Where tasks come from: prepared TFDS sets, or the real MAT benchmark files (arXiv 2505.14246)."""

import contextlib
import io
import json
import os
import pathlib
import re

import absl.logging

from arft_jax.data.images import decode_image
from arft_jax.trajectory import Task

NAMES = ("mini_coding", "mini_search")
SPLITS = ("train", "test")
N_MAT_SIMPLE_SEARCH = 75  # MAT-Search names no split: its first 75 items are the simple ones


def _text(value) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _index(name: str) -> int:
    return int(re.search(r"(\d+)$", name).group())


@contextlib.contextmanager
def _quiet():
    """TFDS prints that it downloads, which it does not, and warns of every configuration made at run time."""
    level = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        absl.logging.set_verbosity(level)


def load_tasks(name: str, split: str, data_dir: str | os.PathLike, *, seed: int = 0, n_train: int = 2000) -> list[Task]:
    """All tasks of a split, prepared on first use, in the order of their index.

    Args:
      name: mini_coding or mini_search.
      split: train or test.
      data_dir: where prepared sets are kept; TFDS writes to a temporary folder and renames it when whole.
      seed: of the generator.
      n_train: training rows; the test split has 200 or 150.

    Raises:
      ValueError: an unknown name or split.
    """
    if name not in NAMES:
        raise ValueError(f"task set must be one of {NAMES}: got {name!r} (config.data.tasks)")
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}: got {split!r}")
    if n_train < 1:
        raise ValueError(f"n_train must be positive: got {n_train} (config.data.n_train)")
    import tensorflow_datasets as tfds  # takes seconds

    from arft_jax.data.builders import mini_coding, mini_search

    tfds.disable_progress_bar()
    builder_class = mini_coding.MiniCoding if name == "mini_coding" else mini_search.MiniSearch
    with _quiet():
        builder = builder_class(
            data_dir=os.fspath(data_dir), config=mini_coding.config_of(seed, n_train), file_format="array_record"
        )
        builder.download_and_prepare()
    image_keys = ("ori_image", "processed_image") if name == "mini_coding" else ("image",)
    rows = builder.as_data_source(split=split, decoders={key: tfds.decode.SkipDecoding() for key in image_keys})
    read = _coding_task if name == "mini_coding" else _search_task
    return sorted((read(row) for row in rows), key=lambda task: _index(task.id))


def _coding_task(row: dict) -> Task:
    kinds = tuple(_text(kind) for kind in row["type"])
    shown = row["ori_image"] if kinds[0] == "crop" else row["processed_image"]
    return Task(
        id=_text(row["id"]),
        kind="coding",
        question=_text(row["question"]),
        images=(decode_image(bytes(shown), "image_1"),),
        answers=tuple(_text(answer) for answer in row["answers"]),
        problems=kinds,
        split=_text(row["split"]),
    )


def _search_task(row: dict) -> Task:
    return Task(
        id=_text(row["id"]),
        kind="search",
        question=_text(row["question"]),
        images=(decode_image(bytes(row["image"]), "image_1"),),
        answers=(_text(row["answer"]),),
        split=_text(row["split"]),
        corpus=_text(row["corpus"]),
        query=_text(row["query"]),
    )


def _read_items(json_path: str | os.PathLike, keys: tuple[str, ...]) -> list[dict]:
    try:
        items = json.loads(pathlib.Path(json_path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"benchmark file must be readable JSON: got {json_path} ({error})") from error
    if not isinstance(items, list):
        raise ValueError(f"benchmark file must hold a list of items: got {type(items).__name__} in {json_path}")
    for place, item in enumerate(items):
        missing = [key for key in keys if not isinstance(item, dict) or key not in item]
        if missing:
            name = item.get("id", f"at place {place}") if isinstance(item, dict) else f"at place {place}"
            raise ValueError(f"item {name} of {json_path} must have {', '.join(keys)}: missing {', '.join(missing)}")
    return items


def _mat_image(item: dict, image_dir: str | os.PathLike, file_name: str):
    path = pathlib.Path(image_dir) / file_name
    try:
        return decode_image(path, "image_1")
    except ValueError as error:
        raise ValueError(f"item {item['id']}: {error}") from error


def load_mat_coding(json_path: str | os.PathLike, image_dir: str | os.PathLike) -> list[Task]:
    """Tasks of ``MAT-Coding.json``: the processed image is shown, but the original where type[0] is crop.

    Raises:
      ValueError: an unreadable file, or an item whose keys or image are missing; the item's id is named.
    """
    keys = ("id", "question", "answers", "ori_image_path", "processed_image_path", "type", "split")
    tasks = []
    for item in _read_items(json_path, keys):
        kinds = tuple(item["type"])
        shown = item["ori_image_path"] if kinds[:1] == ("crop",) else item["processed_image_path"]
        tasks.append(
            Task(
                id=str(item["id"]),
                kind="coding",
                question=item["question"],
                images=(_mat_image(item, image_dir, shown),),
                answers=tuple(str(answer) for answer in item["answers"]),
                problems=kinds,
                split=item["split"],
            )
        )
    return tasks


def load_mat_search(json_path: str | os.PathLike, image_dir: str | os.PathLike) -> list[Task]:
    """Tasks of ``MAT-Search.json``; the first 75 items are the simple ones.

    Raises:
      ValueError: an unreadable file, or an item whose keys or image are missing; the item's id is named.
    """
    return [
        Task(
            id=str(item["id"]),
            kind="search",
            question=item["question"],
            images=(_mat_image(item, image_dir, item["image_path"]),),
            answers=(str(item["answer"]),),
            split="simple" if place < N_MAT_SIMPLE_SEARCH else "hard",
        )
        for place, item in enumerate(_read_items(json_path, ("id", "question", "answer", "image_path")))
    ]
