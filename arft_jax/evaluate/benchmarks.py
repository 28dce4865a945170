"""The benchmarks that can be asked for by name: whole test splits, their halves, and what says that they are the same.

``mat_coding`` and ``mat_search`` are read from the user's data directory (data/mat.py), ``mini_coding`` and
``mini_search`` are made, other public benchmarks are read from their authors' files (data/public_sets.py), and a set of
the configuration's own (``jsonl:PATH``) goes by its name.
"""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from arft_jax.config import JSONL, MAT_TASKS, MINI_TASKS, PUBLIC_TASKS, SEARCHING_TASKS, task_set_name
from arft_jax.data import jsonl_tasks, mat, public_sets, source
from arft_jax.trajectory import Image, Task

GREY = 128  # of an image that is replaced
_MAT_PAGE = "https://huggingface.co/datasets/laolao77/MAT"  # where its authors publish MAT


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """All items of a test split.

    Args:
      name: for tables and folders.
      tasks: in the order of the benchmark; an item's number is its place here.
      sha256: of the items' texts, answers and images: two benchmarks that share it are the same.
    """

    name: str
    tasks: tuple[Task, ...]
    sha256: str

    @property
    def n_items(self) -> int:
        """How many there are."""
        return len(self.tasks)

    @property
    def halves(self) -> dict[str, int]:
        """Items of each half: ``{"simple": 70, "hard": 130}``."""
        return {split: sum(task.split == split for task in self.tasks) for split in ("simple", "hard")}

    def picked(self, limit: int) -> tuple[int, ...]:
        """Numbers of ``limit`` items, spread evenly over the benchmark so that both halves have some; 0: of all."""
        n = min(limit, self.n_items) if limit else self.n_items
        return tuple(np.linspace(0, self.n_items - 1, n).astype(int).tolist())


def entries_of(names: Sequence[str], configured: Iterable[str]) -> dict[str, str]:
    """Names of benchmarks -> entries as ``config.data.tasks`` has them.

    Args:
      names: as given.
      configured: ``config.data.tasks``, which knows the user's own files.

    Raises:
      ValueError: none is given, one twice, or one that there is not.
    """
    own = {task_set_name(entry): entry for entry in configured if entry.startswith(JSONL)}
    known = {name: name for name in (*MAT_TASKS, *MINI_TASKS, *PUBLIC_TASKS)} | own
    unknown = [name for name in names if name not in known]
    if not names or unknown or len(set(names)) < len(names):
        got = f"{unknown[0]!r}" if unknown else ", ".join(names) or "none"
        raise ValueError(
            f"benchmark must be among {', '.join(known)}, each once: got {got}; a file of your own is one where "
            f"config.data.tasks names it as {JSONL}PATH (--benchmark)"
        )
    return {name: known[name] for name in names}


def missing_files(entries: Mapping[str, str], data_dir: str, searches_here: bool) -> list[str]:
    """One sentence for each benchmark whose files are not there, with where to get them; reads no file.

    Args:
      entries: of :func:`entries_of`.
      data_dir: ``config.data.dir``; empty: none was given.
      searches_here: the corpus of mat_search is searched in this machine's own index.
    """
    problems = []
    for name, entry in entries.items():
        if entry.startswith(JSONL) and not jsonl_tasks.file_of(entry).is_file():
            problems.append(f"the file of {name} must exist: got {jsonl_tasks.file_of(entry)} (config.data.tasks)")
        if entry in PUBLIC_TASKS:
            problems += public_sets.missing_files(entry, data_dir, searches_here and entry in SEARCHING_TASKS)
        if entry not in MAT_TASKS:
            continue
        file = mat.split_files(entry, "test", data_dir)[0]
        title = {"mat_coding": "MAT-Coding", "mat_search": "MAT-Search"}[entry]
        if not data_dir or not file.is_file():
            there = "got none" if not data_dir else f"{data_dir} has neither"
            if data_dir and not pathlib.Path(data_dir).is_dir():
                there = f"{data_dir} is no directory"
            problems.append(
                f"{name} needs a data directory with {entry}/test.json, or MAT-Benchmark/{title}.json and "
                f"{title}-image/ as {_MAT_PAGE} has them: {there} (config.data.dir)"
            )
        elif entry == "mat_search" and searches_here and not (pathlib.Path(data_dir) / mat.CORPUS).is_file():
            problems.append(
                f"{name} searches the documents of {mat.CORPUS}, one JSON object with title and text a line: "
                f"{data_dir} has none; another config.tools.search.backend needs none (config.data.dir)"
            )
    return problems


def load(name: str, entry: str, data_dir: str | os.PathLike, *, seed: int, n_train: int) -> Benchmark:
    """All items of a benchmark.

    Args:
      name, entry: of :func:`entries_of`.
      data_dir: the user's, or where self-made sets are kept.
      seed: of the self-made sets.
      n_train: training items of a self-made set, where it is not there yet and has to be made.

    Raises:
      ValueError: a file that is not of its layout; the item is named.
    """
    tasks = tuple(source.load_tasks(entry, "test", data_dir, seed=seed, n_train=n_train))
    return Benchmark(name, tasks, _sha256(tasks))


def check_images(tasks: Iterable[Task]) -> None:
    """Decodes every image once.

    Raises:
      ValueError: the first one that cannot be read, with its item's name.
    """
    for task in tasks:
        for image in task.images:
            image.pixels  # noqa: B018


def _sha256(tasks: Iterable[Task]) -> str:
    digest, of_image = hashlib.sha256(), functools.cache(_image_sha256)  # some items share a large image
    for task in tasks:
        images = [of_image(image) for image in task.images]
        said: list[Any] = [task.id, task.kind, task.question, task.answers, task.problems, task.split, task.corpus]
        said += [task.query, task.tools, task.system, images, *([task.choices] if task.choices else [])]
        digest.update(json.dumps(said).encode() + b"\n")
    return digest.hexdigest()


def _image_sha256(image: Image) -> str:
    """Of the file where there is one: pixels of large images need not be decoded to be told apart."""
    path = getattr(image, "path", None)
    if path is None:
        return image.sha256
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class GreyImage(Image):
    """A uniform mid-grey image that takes no memory until it is looked at.

    Args:
      size: (height, width) in pixels.
      name: how the trajectory refers to it.
    """

    def __init__(self, size: tuple[int, int], name: str):
        for key, value in dict(name=name, _size=tuple(size)).items():
            object.__setattr__(self, key, value)  # an Image is frozen

    @property
    def pixels(self) -> np.ndarray:
        """uint8[height, width, 3]."""
        return np.full((*self._size, 3), GREY, np.uint8)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self._size


def without_sight(task: Task) -> Task:
    """The task with a grey image of the same size in the place of each of its own: what is answered is not seen."""
    return dataclasses.replace(task, images=tuple(GreyImage(image.size, image.name) for image in task.images))
