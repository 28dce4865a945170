"""Where tasks come from: the user's JSONL files (jsonl_tasks.py) or directory in the MAT layout (mat.py), or prepared
TFDS sets of the mini tasks.
"""

import contextlib
import dataclasses
import io
import os
import string
from collections.abc import Iterable, Sequence

import absl.logging

from arft_jax.config import JSONL, task_set_name
from arft_jax.data import jsonl_tasks, mat, public_sets, recorded_items, recorded_steps
from arft_jax.data.images import Quarantine, decode_image
from arft_jax.trajectory import Task

NAMES = ("mini_coding", "mini_search", *mat.NAMES, *recorded_steps.NAMES)
SPLITS = ("train", "test")


def _text(value) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _index(name: str) -> int:
    return int(name[len(name.rstrip(string.digits)) :])


@contextlib.contextmanager
def quiet():
    """TFDS prints that it downloads, which it does not, and warns of every configuration made at run time."""
    level = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        absl.logging.set_verbosity(level)


def load_tasks(
    name: str,
    split: str,
    data_dir: str | os.PathLike,
    *,
    seed: int = 0,
    n_train: int = 2000,
    quarantine: Quarantine | None = None,
) -> list[Task]:
    """All tasks of a split, in the order of the file or of their index.

    Args:
      name: mini_coding or mini_search, prepared on first use; mat_coding, mat_search, mat_training_coding or
        mat_training_search, read from the user's files; ``jsonl:PATH``, a file of the user's; or, for its test split
        alone, a public benchmark (public_sets.py).
      split: train or test.
      data_dir: the user's directory; also where prepared sets are kept: TFDS writes to a temporary folder and renames
        it when whole.
      seed: of the mini tasks' generator.
      n_train: training rows at most; the mini tasks have that many. A test split is always read whole.
      quarantine: counts the training images that a stand-in replaces (image_files.py); None: they are refused. An image
        of a test split always is: a benchmark without it would be another.

    Raises:
      ValueError: an unknown name or split; files that are not of their layout.
    """
    if name in public_sets.SETS and split == "test":
        return [dataclasses.replace(task, task_set=name) for task in public_sets.SETS[name].load(data_dir)]
    if name not in NAMES and not name.startswith(JSONL):
        raise ValueError(f"task set must be one of {NAMES}, or {JSONL}PATH: got {name!r} (config.data.tasks)")
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}: got {split!r}")
    if n_train < 1:
        raise ValueError(f"n_train must be positive: got {n_train} (config.data.n_train)")
    if name.startswith(JSONL):
        return _load_file(name, n_train, quarantine)[split]
    tasks = _load_named(name, split, data_dir, seed, n_train, quarantine)
    return [dataclasses.replace(task, task_set=name) for task in tasks]


def _load_file(entry: str, n_train: int, quarantine: Quarantine | None) -> dict[str, list[Task]]:
    tasks = jsonl_tasks.load_file(jsonl_tasks.file_of(entry), n_train, quarantine, task_set_name(entry))
    _check_some_readable(tasks["train"], entry, quarantine)
    return tasks


def _check_some_readable(tasks: Sequence[Task], owner: str, quarantine: Quarantine | None) -> None:
    images = [image for task in tasks for image in task.images]
    if images and all(getattr(image, "is_bad", False) for image in images):
        raise ValueError(f"some image of {owner} must be readable: {quarantine.messages[-1]} (config.data.dir)")


def _load_named(
    name: str, split: str, data_dir: str | os.PathLike, seed: int, n_train: int, quarantine: Quarantine | None
) -> list[Task]:
    if name in (*mat.NAMES, *recorded_steps.NAMES):
        load = mat.load_split if name in mat.NAMES else recorded_steps.load_split
        if name in mat.NAMES and split == "train" and mat.trains_on_recorded(name, data_dir):
            tasks = recorded_items.load(name, data_dir, n_train, quarantine)
        else:
            tasks = load(name, split, data_dir, *((n_train, quarantine) if split == "train" else ()))
        _check_some_readable(tasks, f"{name}/{split}", quarantine)
        return tasks
    import tensorflow_datasets as tfds  # takes seconds

    from arft_jax.data.builders import mini_coding, mini_search

    tfds.disable_progress_bar()
    builder_class = mini_coding.MiniCoding if name == "mini_coding" else mini_search.MiniSearch
    with quiet():
        builder = builder_class(
            data_dir=os.fspath(data_dir), config=mini_coding.config_of(seed, n_train), file_format="array_record"
        )
        builder.download_and_prepare()
    image_keys = ("ori_image", "processed_image") if name == "mini_coding" else ("image",)
    rows = builder.as_data_source(split=split, decoders={key: tfds.decode.SkipDecoding() for key in image_keys})
    read = _coding_task if name == "mini_coding" else _search_task
    return sorted((read(row) for row in rows), key=lambda task: _index(task.id))


def load_splits(
    names: Sequence[str],
    data_dir: str | os.PathLike,
    *,
    seed: int,
    n_train: int,
    quarantine: Quarantine | None = None,
) -> dict[str, dict[str, list[Task]]]:
    """``{name: {"train": [...], "test": [...]}}``, each as :func:`load_tasks` gives it; a file is named by its stem.

    Raises:
      ValueError: as there; a set whose test items are its training items.
    """
    options = dict(seed=seed, n_train=n_train, quarantine=quarantine)
    found = {}
    for entry in names:
        if entry.startswith(JSONL):
            tasks = _load_file(entry, n_train, quarantine)
        else:
            tasks = {split: load_tasks(entry, split, data_dir, **options) for split in SPLITS}
        if _identities(tasks["train"]) == _identities(tasks["test"]):
            raise ValueError(
                f"the test items of a set must be others than its training items: {entry} has the same "
                f"{len(tasks['test'])} in both, so its figures would be worth nothing (config.data.tasks)"
            )
        found[task_set_name(entry)] = tasks
    return found


def _identities(tasks: Iterable[Task]) -> set:
    return {(task.id, task.question, task.answers) for task in tasks}


def decode_images(tasks: Iterable[Task]) -> None:
    """Decodes every image once, for a run that must not meet a damaged one later.

    Raises:
      ValueError: the first image that cannot be read, with its item's name.
    """
    for task in tasks:
        for image in task.images:
            try:
                image.pixels  # noqa: B018
            except ValueError as error:
                raise ValueError(f"{error} (config.data.strict)") from error


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
