"""The user's own data, in the layout of the MAT benchmark (Visual-ARFT, arXiv 2505.14246).

``config.data.dir`` is a directory with a folder for each task set that is trained on:

    mat_coding/train.json, test.json    [{"id", "question", "answers": [..], "ori_image_path",
                                          "processed_image_path", "type": [..], "split": "simple" | "hard"}, ..]
    mat_search/train.json, test.json    [{"id", "question", "answer", "image_path"}, ..]; optional: "split" (else the
                                        first half is simple, as in MAT), "corpus" (the name of the documents to be
                                        searched, else all), "query" (a recorded first query, for config.rewards.step)
    mat_search/corpus.jsonl             {"title", "text"} or {"contents"} a line; optional: "id", "corpus"

Image paths are relative to the folder of their JSON file and may not lead out of it. ``type`` names what is wrong with
the image: rotation90, rotation180, dark, overexposure, blur, noise, crop or none. The image shown is
``processed_image_path``, but ``ori_image_path`` where the first type is crop; the other one need not be there.
The benchmark's own files, ``MAT-Benchmark/MAT-Coding.json`` with ``MAT-Coding-image/`` and
``MAT-Benchmark/MAT-Search.json`` with ``MAT-Search-image/``, serve as test split where ``test.json`` is not there; the
questions of MAT-Training serve as training split where ``train.json`` is not there (recorded_items.py).
"""

import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence

from arft_jax.data import items as fields
from arft_jax.data.image_files import FileImage, ImageFiles, safe_path
from arft_jax.data.images import Quarantine
from arft_jax.trajectory import Task

NAMES = ("mat_coding", "mat_search")
CORPUS = "mat_search/corpus.jsonl"
RECORDED = {"mat_coding": "rft_agent_code_1_2k.json", "mat_search": "rft_agent_search_20.json"}
_RECORDED_FOLDERS = ("mat_training", "MAT-Training")
_BENCHMARK = {"mat_coding": "MAT-Coding", "mat_search": "MAT-Search"}
_KEYS = {
    "mat_coding": ("id", "question", "answers", "ori_image_path", "processed_image_path", "type", "split"),
    "mat_search": ("id", "question", "answer", "image_path"),
}
_MORE_KEYS = {"mat_coding": (), "mat_search": ("split", "corpus", "query")}
_LEVELS = ("simple", "hard")


def split_files(name: str, split: str, data_dir: str | os.PathLike) -> tuple[pathlib.Path, pathlib.Path]:
    """(JSON file, folder of its images) of a split; where nothing is there, the file that is missed."""
    root = pathlib.Path(data_dir)
    own, theirs = root / name / f"{split}.json", root / "MAT-Benchmark" / f"{_BENCHMARK[name]}.json"
    if split == "test" and not own.is_file() and theirs.is_file():
        return theirs, theirs.with_name(f"{_BENCHMARK[name]}-image")
    return own, own.parent


def recorded_file(name: str, data_dir: str | os.PathLike) -> pathlib.Path:
    """The recorded steps that MAT publishes for training; where there are none, the file that is missed."""
    paths = [pathlib.Path(data_dir) / folder / RECORDED[name] for folder in _RECORDED_FOLDERS]
    return next((path for path in paths if path.is_file()), paths[0])


def trains_on_recorded(name: str, data_dir: str | os.PathLike) -> bool:
    """Whether the training split is read from the recorded steps: there is no ``train.json``, and there are they."""
    return not split_files(name, "train", data_dir)[0].is_file() and recorded_file(name, data_dir).is_file()


def missing_files(names: Sequence[str], data_dir: str, searches_here: bool = True) -> list[str]:
    """One sentence where the data directory lacks what the task sets need; none where they need nothing of it.

    Args:
      names: of task sets, others too.
      data_dir: empty: none was given.
      searches_here: the corpus is searched in this machine's own index, not by a service.
    """
    needed = {f"{n}/{s}.json": split_files(n, s, data_dir)[0] for n in names if n in NAMES for s in ("train", "test")}
    recorded = [n for n in names if n in NAMES and trains_on_recorded(n, data_dir)]
    needed |= {f"{n}/train.json": recorded_file(n, data_dir) for n in recorded}
    if "mat_search" in names and searches_here:
        needed[CORPUS] = pathlib.Path(data_dir) / CORPUS
    return wrong_with_directory(needed, data_dir)


def wrong_with_directory(needed: Mapping[str, pathlib.Path], data_dir: str | os.PathLike) -> list[str]:
    """One sentence where files of the data directory are not there, by their names in it; else nothing."""
    missing = [name for name, path in needed.items() if not (data_dir and path.is_file())]
    if not missing:
        return []
    got = "got none" if not data_dir else f"{data_dir} has no {', '.join(missing)}"
    if data_dir and not pathlib.Path(data_dir).is_dir():
        got = f"got {data_dir}, which is no directory"
    return [f"data.dir must be a directory with {', '.join(needed)} and their images: {got} (config.data.dir)"]


def load_split(
    name: str,
    split: str,
    data_dir: str | os.PathLike,
    n_rows: int | None = None,
    quarantine: Quarantine | None = None,
    on_bad: fields.OnBad | None = None,
) -> list[Task]:
    """The tasks of one split, in the order of the file; images stay on disk.

    Args:
      name: mat_coding or mat_search.
      split: train or test.
      data_dir: the directory described above.
      n_rows: at most so many; None: all.
      quarantine: counts the images that a stand-in replaces (image_files.py); None: they are refused.
      on_bad: takes what is wrong with an item that is left out; None: it is refused.

    Raises:
      ValueError: an unreadable file, no items, or an item that is not of the layout; the item is named.
    """
    read = {"mat_coding": load_mat_coding, "mat_search": load_mat_search}[name]
    return read(*split_files(name, split, data_dir), n_rows, quarantine, on_bad)


def _read_items(json_path: str | os.PathLike) -> list:
    try:
        items = json.loads(pathlib.Path(json_path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"data file must be readable JSON: got {json_path} ({error})") from error
    if not isinstance(items, list) or not items:
        got = "an empty list" if items == [] else type(items).__name__
        raise ValueError(f"data file must hold a list of items: got {got} in {json_path}")
    return items


def _check_item(item: object, place: int, name: str, json_path: str | os.PathLike, seen: set[str]) -> None:
    """Refuses an item without its keys, with a text that nothing can write, or with the id of one before it."""
    keys, known = _KEYS[name], (*_KEYS[name], *_MORE_KEYS[name])
    missing = [key for key in keys if not isinstance(item, dict) or key not in item]
    identity = item.get("id", f"at place {place}") if isinstance(item, dict) else f"at place {place}"
    if isinstance(item, dict):
        where = f"item {identity} of {json_path}"
        fields.check_keys(item, known, where)
        read = {key: value for key, value in item.items() if key in known}
        fields.check_texts(read, where, "config.data.dir")
    if missing:
        raise ValueError(f"item {identity} of {json_path} must have {', '.join(keys)}: missing {', '.join(missing)}")
    if str(identity) in seen:
        raise ValueError(f"the ids of {json_path} must differ: got {identity} twice")
    seen.add(str(identity))


def _text(item: dict, key: str) -> str:
    value = item.get(key, "")
    if not isinstance(value, str) or (key == "question" and not value.strip()):
        raise ValueError(f"{key} must be text: got {value!r}")
    return value


def _texts(item: dict, key: str) -> tuple[str, ...]:
    values = item[key]
    if not isinstance(values, list) or not values or not all(isinstance(v, (str, int, float)) for v in values):
        raise ValueError(f"{key} must be a list of one text or more: got {values!r}")
    if any(isinstance(v, bool) or not str(v).strip() or v != v for v in values):
        raise ValueError(f"{key} must hold no blank text and no NaN: got {values!r}")
    return tuple(map(str, values))


def _level(item: dict, default: str = "") -> str:
    value = item.get("split", default)
    if value not in _LEVELS:
        raise ValueError(f"split must be one of {_LEVELS}: got {value!r}")
    return value


def _read_tasks(
    name: str,
    make: Callable,
    json_path: str | os.PathLike,
    image_dir: str | os.PathLike,
    n_rows: int | None,
    quarantine: Quarantine | None,
    on_bad: fields.OnBad | None,
) -> list[Task]:
    """``make(item, place, n_items, open_image)`` of every item; its errors are given the item's name."""
    items, root = _read_items(json_path), pathlib.Path(image_dir)
    files, seen, good = ImageFiles(quarantine=quarantine), set(), []
    for place, item in enumerate(items):
        try:
            _check_item(item, place, name, json_path, seen)
            good.append((place, item))
        except ValueError as error:
            fields.tell_or_raise(error, on_bad)
    tasks = []
    for place, item in good[:n_rows]:
        owner = f"item {item['id']} of {json_path}"
        try:
            tasks.append(
                make(
                    item, place, len(items), lambda path, o=owner: FileImage(files, safe_path(root, path), "image_1", o)
                )
            )
        except ValueError as error:
            fields.tell_or_raise(ValueError(f"{owner}: {error}"), on_bad)
    files.tell_animated(json_path)
    return tasks


def load_mat_coding(
    json_path: str | os.PathLike,
    image_dir: str | os.PathLike,
    n_rows: int | None = None,
    quarantine: Quarantine | None = None,
    on_bad: fields.OnBad | None = None,
) -> list[Task]:
    """Tasks of ``MAT-Coding.json``: the processed image is shown, but the original where type[0] is crop.

    Raises:
      ValueError: as :func:`load_split`.
    """

    def make(item: dict, place: int, n_items: int, open_image: Callable) -> Task:
        kinds = _texts(item, "type")
        fields.check_problems(kinds, "type", "")
        shown = item["ori_image_path"] if kinds[0] == "crop" else item["processed_image_path"]
        return Task(
            id=str(item["id"]),
            kind="coding",
            question=_text(item, "question"),
            images=(open_image(shown),),
            answers=_texts(item, "answers"),
            problems=kinds,
            split=_level(item),
        )

    return _read_tasks("mat_coding", make, json_path, image_dir, n_rows, quarantine, on_bad)


def load_mat_search(
    json_path: str | os.PathLike,
    image_dir: str | os.PathLike,
    n_rows: int | None = None,
    quarantine: Quarantine | None = None,
    on_bad: fields.OnBad | None = None,
) -> list[Task]:
    """Tasks of ``MAT-Search.json``; the first half of the items (75 of 150) are the simple ones.

    Raises:
      ValueError: as :func:`load_split`.
    """

    def make(item: dict, place: int, n_items: int, open_image: Callable) -> Task:
        return Task(
            id=str(item["id"]),
            kind="search",
            question=_text(item, "question"),
            images=(open_image(item["image_path"]),),
            answers=_texts({"answer": [item["answer"]]}, "answer"),
            split=_level(item, "simple" if 2 * place < n_items else "hard"),
            corpus=_text(item, "corpus"),
            query=_text(item, "query"),
        )

    return _read_tasks("mat_search", make, json_path, image_dir, n_rows, quarantine, on_bad)
