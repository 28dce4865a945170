"""Multiple choice about large pictures in public layouts: V* (arXiv 2312.14135), HR-Bench (arXiv 2408.15556).

V*, 191 questions, https://huggingface.co/datasets/craigwu/vstar_bench, in ``DIR/vstar_bench``:

    test_questions.jsonl    {"image", "text", "category", "label", "question_id"} a line; ``text`` has the question, its
                            options as lines ``(A) ..`` and how to answer; ``label`` the right letter
    direct_attributes/, relative_position/    the pictures that ``image`` names

HR-Bench, 200 questions of 4K and of 8K pictures, each asked four times with its options in turn,
https://huggingface.co/datasets/DreamMr/HR-Bench, in ``DIR/HR-Bench``:

    hr_bench_4k.parquet or .tsv, hr_bench_8k.parquet or .tsv    index, question, answer (the right letter), category, A,
                                                                B, C, D, image (base64)

An item's ``extra`` has its ``category`` and, of HR-Bench, its ``group``: the rows of one question.
"""

import json
import os
import pathlib
import string
from typing import Any

from arft_jax.data import items
from arft_jax.data.image_files import ImageFiles, open_picture
from arft_jax.data.unpacked import ROWS, unpack
from arft_jax.trajectory import Task

VSTAR_PAGE = "https://huggingface.co/datasets/craigwu/vstar_bench"
HR_PAGE = "https://huggingface.co/datasets/DreamMr/HR-Bench"
_VSTAR_KEYS = ("image", "text", "category", "label", "question_id")
_HR_COLUMNS = ("index", "question", "answer", "category", "A", "B", "C", "D")
_ASK = "Answer with the letter of the right option alone."


def vstar_file(data_dir: str | os.PathLike) -> pathlib.Path:
    """The file of V*'s questions; where there is none, the one that is missed."""
    return pathlib.Path(data_dir) / "vstar_bench" / "test_questions.jsonl"


def load_vstar(data_dir: str | os.PathLike) -> list[Task]:
    """The questions of V*, in the order of the file; pictures stay on disk.

    Raises:
      ValueError: a file, or a line of it, of another layout; the line is named.
    """
    path = vstar_file(data_dir)
    files, where_by_id, tasks = ImageFiles(), {}, []
    for where, item in items.read_json_lines(path, "config.data.dir"):
        if missing := [key for key in _VSTAR_KEYS if key not in item]:
            raise ValueError(f"{where} must have {', '.join(_VSTAR_KEYS)}: missing {', '.join(missing)}")
        identity = items.id_of({"id": item["question_id"]}, where)
        items.check_different(where_by_id, identity, where)
        question = items.text_of(item, "text", where)
        options = _options(question)
        if len(options) < 2 or "".join(options) != string.ascii_uppercase[: len(options)]:
            raise items.wrong(where, "text", "hold options as lines (A) .., (B) ..", question)
        answer = _letter(item["label"], "label", len(options), where)
        image = open_picture(files, path.parent, item["image"], where)
        category = items.text_of(item, "category", where)
        tasks.append(_task(identity, question, image, answer, tuple(options.values()), {"category": category}))
    return tasks


def _options(question: str) -> dict[str, str]:
    """The lines ``(A) text`` of a question: texts by letter."""
    lines = [line for line in question.split("\n") if line[:1] == "(" and line[2:3] == ")"]
    return {line[1]: line[3:].removeprefix(" ") for line in lines if line[1] in string.ascii_uppercase}


def hr_file(size: str, data_dir: str | os.PathLike) -> pathlib.Path:
    """The table of HR-Bench of ``4k`` or ``8k``; where there is none, the one that is missed."""
    paths = [pathlib.Path(data_dir) / "HR-Bench" / f"hr_bench_{size}.{suffix}" for suffix in ("parquet", "tsv")]
    return next((path for path in paths if path.is_file()), paths[0])


def load_hr(size: str, data_dir: str | os.PathLike) -> list[Task]:
    """The rows of HR-Bench of ``4k`` or ``8k``, in the order of the table; pictures are unpacked beside it.

    Raises:
      ValueError: a table, or a row of it, of another layout; the row is named.
    """
    path = hr_file(size, data_dir)
    folder = unpack(path, _HR_COLUMNS, "image", index="index")
    files, pictures, where_by_id, groups, tasks = ImageFiles(), {}, {}, {}, []
    for number, line in enumerate((folder / ROWS).read_text(encoding="utf-8").splitlines()):
        where, row = f"row {number} of {path}", json.loads(line)
        items.check_texts(row, where, "config.data.dir")
        row["index"] = str(row["index"])
        items.check_different(where_by_id, items.id_of({"id": row["index"]}, where), where)
        options = [str(row[letter]) for letter in "ABCD" if row[letter] not in (None, "")]
        if len(options) < 2 or any(row[letter] in (None, "") for letter in "ABCD"[: len(options)]):
            raise items.wrong(where, "A, B, C, D", "hold options from A on", [row[letter] for letter in "ABCD"])
        question = items.text_of(row, "question", where)
        if row["image"] is None:
            raise items.wrong(where, "image", "be a picture", None)
        name = row["image"]  # of all four rows of a question
        pictures[name] = pictures.get(name) or open_picture(files, folder, name, where)
        lines = (f"({letter}) {option}" for letter, option in zip("ABCD", options, strict=False))
        group = str(groups.setdefault((question, name, *sorted(options)), len(groups)))
        extra = {"category": items.text_of(row, "category", where), "group": group}
        answer = _letter(row["answer"], "answer", len(options), where)
        asked = "\n".join([question, *lines, _ASK])
        tasks.append(_task(row["index"], asked, pictures[name], answer, tuple(options), extra))
    return tasks


def _letter(value: Any, key: str, n_options: int, where: str) -> str:
    letters = string.ascii_uppercase[:n_options]
    if not isinstance(value, str) or value.strip() not in tuple(letters):
        raise items.wrong(where, key, f"be a letter of {', '.join(letters)}", value)
    return value.strip()


def _task(identity: str, question: str, image, answer: str, choices: tuple[str, ...], extra: dict[str, Any]) -> Task:
    return Task(
        id=identity,
        kind="coding",
        question=question,
        images=(image,),
        answers=(answer,),
        split="",
        choices=choices,
        extra=extra,
    )
