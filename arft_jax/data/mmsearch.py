"""MMSearch (arXiv 2409.12959), its end-to-end questions: news and rare knowledge that a search must find.

300 questions, 171 of them with a picture, https://huggingface.co/datasets/CaraJ/MMSearch, in ``DIR/MMSearch``:

    end2end.parquet    sample_id, query, query_image (null, or the bytes of a picture), area, subfield, gt_requery,
                       gt_answer, alternative_gt_answers

An answer is scored by its token F1, the best over ``gt_answer`` and its alternatives, as MMSearch's end-to-end score;
as everywhere here, common tokens count once (rewards/text.py). ``area`` is an item's category, ``gt_requery`` its
recorded query. The pictures of search results that come with MMSearch are not shown: the agent's own tools search.
"""

import json
import os
import pathlib

from arft_jax.data import items
from arft_jax.data.image_files import ImageFiles, open_picture
from arft_jax.data.unpacked import ROWS, unpack
from arft_jax.trajectory import Task

PAGE = "https://huggingface.co/datasets/CaraJ/MMSearch"
_COLUMNS = ("sample_id", "query", "area", "gt_requery", "gt_answer", "alternative_gt_answers")


def table_file(data_dir: str | os.PathLike) -> pathlib.Path:
    """The table of questions; where there is none, the one that is missed."""
    paths = [pathlib.Path(data_dir) / "MMSearch" / folder / "end2end.parquet" for folder in ("", "data")]
    return next((path for path in paths if path.is_file()), paths[0])


def load(data_dir: str | os.PathLike) -> list[Task]:
    """The questions, in the order of the table; pictures are unpacked beside it.

    Raises:
      ValueError: a table, or a row of it, of another layout; the row is named.
    """
    path = table_file(data_dir)
    folder = unpack(path, _COLUMNS, "query_image")
    files, where_by_id, tasks = ImageFiles(), {}, []
    for number, line in enumerate((folder / ROWS).read_text(encoding="utf-8").splitlines()):
        where, row = f"row {number} of {path}", json.loads(line)
        items.check_texts(row, where, "config.data.dir")
        identity = items.id_of({"id": row["sample_id"]}, where)
        items.check_different(where_by_id, identity, where)
        others = row["alternative_gt_answers"] or []
        answers = [row["gt_answer"], *(others if isinstance(others, list) else [others])]
        shown = row["query_image"]
        tasks.append(
            Task(
                id=identity,
                kind="search",
                question=items.text_of(row, "query", where),
                images=() if shown is None else (open_picture(files, folder, shown, where),),
                answers=items.answers_of(answers, "gt_answer, alternative_gt_answers", where),
                split="",
                query=row["gt_requery"] or "",
                extra={"category": items.text_of(row, "area", where)},
            )
        )
    return tasks
