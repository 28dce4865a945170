"""The whole questions behind the recorded steps of MAT-Training, to be trained on with live tools (arXiv 2505.14246).

The published download has no ``mat_coding/train.json``: its training data are steps (recorded_steps.py). All rows of a
question have its image, in the coding file ``NAME_proc`` before the repair and ``NAME_ori`` behind it. Of a coding
question the row ``pre_problem`` has image, text and faults, the row ``pre_answer`` the answer. Of a search question the
first row has the text and, in its step, the first query; in the other rows the text goes on with the chain so far; the
last one has the answer. A question without its first or last row is left out: it has no picture to begin with, or
nothing to be trained towards.
"""

import collections
import os
import pathlib
import re
import warnings
from collections.abc import Mapping, Sequence

from arft_jax.data import items, mat
from arft_jax.data.image_files import FileImage, ImageFiles, safe_path
from arft_jax.data.images import Quarantine
from arft_jax.data.recorded_steps import TYPES, image_folder, read_rows
from arft_jax.rewards import recorded
from arft_jax.trajectory import Task

_SIDE = re.compile(r"_(?:proc|ori)\Z")
_QUERY = ("<query>", "</query>")  # around the question in the coding file
_CHAIN = ("<think>", "<search>", "<information>")  # of a search row's text: the chain so far has begun


def load(
    name: str, data_dir: str | os.PathLike, n_rows: int | None = None, quarantine: Quarantine | None = None
) -> list[Task]:
    """The training tasks of mat_coding or mat_search from their recorded steps, in the order of the file.

    Args:
      name: mat_coding or mat_search.
      data_dir: holds the file that mat.recorded_file names.
      n_rows: tasks at most; None: all.
      quarantine: counts the images that a stand-in replaces (image_files.py); None: they are refused.

    Raises:
      ValueError: an unreadable file, a row that is not of the layout, or no whole question in it.
    """
    path = mat.recorded_file(name, data_dir)
    rows, images = read_rows(path), image_folder(path)
    files, tasks = ImageFiles(quarantine=quarantine), []
    questions = {"mat_coding": _coding_questions, "mat_search": _search_questions}[name](rows, path)
    whole = [question for question in questions if question.get("answer") and question.get("text")]
    if not whole:
        raise ValueError(
            f"data file must hold the first and the last step of a question: {path} has none of {len(questions)} "
            "whole (config.data.dir)"
        )
    if len(whole) < len(questions):
        left = f"{len(questions) - len(whole)} of {len(questions)}"
        warnings.warn(f"{path}: {left} questions are left out, their first or last step is missing", stacklevel=2)
    for question in whole[:n_rows]:
        owner = f"row {question['place']} of {path}"
        try:
            image = FileImage(files, safe_path(images, question["image"]), "image_1", owner)
        except ValueError as error:
            raise ValueError(f"{owner}: {error}") from error
        tasks.append(
            Task(
                id=question["id"],
                kind="coding" if name == "mat_coding" else "search",
                question=question["text"],
                images=(image,),
                answers=(question["answer"],),
                problems=question.get("problems", ()),
                query=question.get("query", ""),
            )
        )
    files.tell_animated(path)
    return tasks


def _texts(row: object, keys: Sequence[str], owner: str) -> Mapping[str, str]:
    """Some keys of a row, which must be texts that are not blank."""
    for key in keys:
        value = row.get(key) if isinstance(row, dict) else None
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{owner}: {key} must be text: got {value!r}")
    read = {key: row[key] for key in keys}
    items.check_texts(read, owner, "config.data.dir")
    return read


def _answer(solution: str) -> str:
    return recorded.inner("answer", solution) if "<answer>" in solution else ""


def _coding_questions(rows: Sequence[object], path: pathlib.Path) -> list[dict]:
    found: dict[str, dict] = {}
    for place, row in enumerate(rows):
        owner = f"row {place} of {path}"
        read = _texts(row, ("image_path", "problem", "solution", "type"), owner)
        if read["type"] not in TYPES:
            raise ValueError(f"{owner}: type must be one of {', '.join(TYPES)}: got {read['type']!r}")
        name = pathlib.PurePosixPath(read["image_path"])
        identity = str(name.with_name(_SIDE.sub("", name.stem)))
        question = found.setdefault(identity, {"id": identity, "place": place})
        if read["type"] == "pre_problem":
            problems = tuple(recorded.named_kinds(read["solution"]))
            if not problems:
                got = f"got {read['solution'][:80]!r}"
                raise ValueError(f"{owner}: solution must hold <problem>{{'KIND', ..}}</problem>: {got}")
            items.check_problems(problems, "solution", owner)
            question |= {"image": read["image_path"], "text": _question(read["problem"]), "problems": problems}
        elif read["type"] == "pre_answer":
            question["answer"] = _answer(read["solution"])
    return list(found.values())


def _question(text: str) -> str:
    """A question without the element that it stands in, if it does."""
    begin, end = _QUERY
    text = text.strip()
    if text.startswith(begin) and text.endswith(end):
        return text.removeprefix(begin).removesuffix(end).strip()
    return text


def _search_questions(rows: Sequence[object], path: pathlib.Path) -> list[dict]:
    read = [_texts(row, ("image_path", "problem", "solution"), f"row {i} of {path}") for i, row in enumerate(rows)]
    by_image: dict[str, list[dict]] = collections.defaultdict(list)
    for place, row in enumerate(read):
        if not any(tag in row["problem"] for tag in _CHAIN):
            query = recorded.inner("search", row["solution"]) if "<search>" in row["solution"] else ""
            question = {"id": f"{path.stem}-{place}", "place": place, "image": row["image_path"], "query": query}
            question |= {"text": row["problem"].strip(), "answer": _answer(row["solution"])}
            by_image[row["image_path"]].append(question)
    for row in read:
        text = row["problem"].strip()
        begun = [question for question in by_image[row["image_path"]] if text.startswith(question["text"])]
        if begun and (answer := _answer(row["solution"])):
            max(begun, key=lambda question: len(question["text"]))["answer"] = answer
    return sorted((question for part in by_image.values() for question in part), key=lambda question: question["place"])
