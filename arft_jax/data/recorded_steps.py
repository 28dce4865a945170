"""Recorded steps to train on: the files of MAT-Training as they are (Visual-ARFT, arXiv 2505.14246).

``config.data.dir`` holds a folder ``mat_training``, or ``MAT-Training`` as it is published, with

    rft_agent_code_1_2k.json    [{"image_path", "problem", "context", "solution", "type"}, ..]
    rft_agent_search_20.json    [{"image_path", "problem", "solution"}, ..]

A row is one step of a recorded chain. ``problem`` is the question, for search with the chain so far; ``context`` is the
chain so far of a coding row, read where ``type`` is pre_code or pre_answer and not where it is pre_problem;
``solution`` is the step to be written, its tag included: <problem>, <code> or <answer>, <search> or <answer>. What else
a row holds, as ``gt``, is not read. Images lie in a folder named for the file, ``rft_agent_code_1_2k_images``, else
beside it; their paths are relative and may not lead out.

The test split is that of mat_coding and mat_search (mat.py): whole questions, answered with tools.
"""

import json
import os
import pathlib
from collections.abc import Sequence

from arft_jax.data import items, mat
from arft_jax.data.image_files import FileImage, ImageFiles, safe_path
from arft_jax.data.images import Quarantine
from arft_jax.rewards.recorded import step_of
from arft_jax.trajectory import Task

KINDS = {"mat_training_coding": "coding", "mat_training_search": "search"}
NAMES = tuple(KINDS)
TYPES = ("pre_problem", "pre_code", "pre_answer")
_TEST = {"mat_training_coding": "mat_coding", "mat_training_search": "mat_search"}
FILES = {name: mat.RECORDED[test] for name, test in _TEST.items()}


def training_file(name: str, data_dir: str | os.PathLike) -> pathlib.Path:
    """The file of recorded steps; where there is none, the one that is missed."""
    return mat.recorded_file(_TEST[name], data_dir)


def image_folder(path: pathlib.Path) -> pathlib.Path:
    """Where the images of a file of recorded steps lie."""
    images = path.parent / f"{path.stem}_images"
    return images if images.is_dir() else path.parent


def missing_files(names: Sequence[str], data_dir: str) -> list[str]:
    """One sentence where the data directory lacks what the task sets need; none where they need nothing of it."""
    needed = {}
    for name in (n for n in names if n in NAMES):
        needed[f"mat_training/{FILES[name]}"] = training_file(name, data_dir)
        needed[f"{_TEST[name]}/test.json"] = mat.split_files(_TEST[name], "test", data_dir)[0]
        if KINDS[name] == "search":
            needed[mat.CORPUS] = pathlib.Path(data_dir) / mat.CORPUS
    return mat.wrong_with_directory(needed, data_dir)


def load_split(
    name: str,
    split: str,
    data_dir: str | os.PathLike,
    n_rows: int | None = None,
    quarantine: Quarantine | None = None,
    on_bad: items.OnBad | None = None,
) -> list[Task]:
    """The tasks of one split, in the order of the file; images stay on disk.

    Args:
      name: mat_training_coding or mat_training_search.
      split: ``train``: recorded steps, each with its ``target``. ``test``: those of mat_coding or mat_search.
      data_dir: the directory described above.
      n_rows: at most so many; None: all.
      quarantine: counts the images that a stand-in replaces (image_files.py); None: they are refused.
      on_bad: takes what is wrong with a row that is left out; None: it is refused.

    Raises:
      ValueError: an unreadable file, no rows, or a row that is not of the layout; the row is named.
    """
    if split == "test":
        return mat.load_split(_TEST[name], "test", data_dir, n_rows, quarantine, on_bad)
    path = training_file(name, data_dir)
    images, files, tasks = image_folder(path), ImageFiles(quarantine=quarantine), []
    for place, row in enumerate(read_rows(path)[:n_rows]):
        owner = f"row {place} of {path}"
        try:
            question, target = _prompt_and_target(row, KINDS[name])
            image = FileImage(files, safe_path(images, row["image_path"]), "image_1", owner)
        except ValueError as error:
            items.tell_or_raise(ValueError(f"{owner}: {error}"), on_bad)
            continue
        tasks.append(Task(f"{path.stem}-{place}", KINDS[name], question, (image,), (), target=target))
    files.tell_animated(path)
    return tasks


def read_rows(path: pathlib.Path) -> list:
    """What a file of recorded steps holds, a value for each row.

    Raises:
      ValueError: an unreadable file, or no rows.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"data file must be readable JSON: got {path} ({error})") from error
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"data file must hold a list of rows: got {type(rows).__name__} in {path}")
    return rows


def _prompt_and_target(row: object, kind: str) -> tuple[str, str]:
    """(question with the chain so far, the step to be written) of one row."""
    keys = ["image_path", "problem", "solution", *(["type"] if kind == "coding" else [])]
    if not isinstance(row, dict) or any(key not in row for key in keys):
        raise ValueError(f"a row must have {', '.join(keys)}: got {sorted(row) if isinstance(row, dict) else row!r}")
    texts = [row["problem"]]
    if kind == "coding":
        if row["type"] not in TYPES:
            raise ValueError(f"type must be one of {', '.join(TYPES)}: got {row['type']!r}")
        if row["type"] != "pre_problem":
            texts.append(row.get("context"))
    read = {key: row[key] for key in (*keys, "context") if key in row and (key != "context" or len(texts) > 1)}
    items.check_texts(read, "", "config.data.dir")
    for text in (*texts, row["solution"]):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"problem, solution and, where it is read, context must be text: got {text!r}")
    step_of(kind, row["solution"])  # refuses what no reward is defined for
    return "\n".join(texts), row["solution"]
