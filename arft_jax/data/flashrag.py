"""Questions of text alone that take several hops, in the layout of FlashRAG's data sets.

2WikiMultihopQA, HotpotQA, MuSiQue and Bamboogle: the text benchmarks of Visual-ARFT (arXiv 2505.14246). The data
directory holds a folder for each, or ``FlashRAG_datasets`` with them, as
https://huggingface.co/datasets/RUC-NLPIR/FlashRAG_datasets has them:

    hotpotqa/dev.jsonl    {"id", "question", "golden_answers": [..], "metadata": {..}} a line

The search agent answers them without an image. Of ``metadata`` its short texts (``type``, ``level``) are kept in
``Task.extra``: the passages in it would give the answer away to whoever reads a record.
"""

import os
import pathlib

from arft_jax.data import items
from arft_jax.trajectory import Task

# The split that is asked by each, as the paper and FlashRAG do, and how many questions it has.
SPLITS = {"2wikimultihopqa": "dev", "hotpotqa": "dev", "musique": "dev", "bamboogle": "test"}
N_ITEMS = {"2wikimultihopqa": 12576, "hotpotqa": 7405, "musique": 2417, "bamboogle": 125}
NAMES = tuple(SPLITS)
PAGE = "https://huggingface.co/datasets/RUC-NLPIR/FlashRAG_datasets"
KEYS = ("id", "question", "golden_answers", "metadata")
_FOLDERS = ("", "FlashRAG_datasets")
_KEPT = ("type", "level")


def split_file(name: str, split: str, data_dir: str | os.PathLike) -> pathlib.Path:
    """The JSONL file of a split, ``train``, ``dev`` or ``test``; where there is none, the one that is missed."""
    paths = [pathlib.Path(data_dir) / folder / name / f"{split}.jsonl" for folder in _FOLDERS]
    return next((path for path in paths if path.is_file()), paths[0])


def load_split(
    name: str, split: str, data_dir: str | os.PathLike, n_rows: int | None = None, on_bad: items.OnBad | None = None
) -> list[Task]:
    """The questions of one split, in the order of the file.

    Args:
      name: one of :data:`NAMES`.
      split: of the file; :data:`SPLITS` says which one is asked.
      data_dir: the directory described above.
      n_rows: at most so many; None: all.
      on_bad: takes what is wrong with a line that is left out; None: it is refused.

    Raises:
      ValueError: an unreadable file, no lines, or a line that is not of the layout; the line is named.
    """
    path = split_file(name, split, data_dir)
    tasks, where_by_id = [], {}
    for where, item in items.read_json_lines(path, "config.data.dir", on_bad):
        try:
            task = _task(item, where, name)
            items.check_different(where_by_id, task.id, where)
            tasks.append(task)
        except ValueError as error:
            items.tell_or_raise(error, on_bad)
        if len(tasks) == n_rows:
            break
    return tasks


def _task(item: dict, where: str, name: str) -> Task:
    items.check_keys(item, KEYS, where)
    metadata = item.get("metadata")
    found = metadata if isinstance(metadata, dict) else {}  # some files hold it as text
    return Task(
        id=items.id_of(item, where),
        kind="search",
        question=items.text_of(item, "question", where),
        images=(),
        answers=items.answers_of(item.get("golden_answers"), "golden_answers", where),
        split="",
        task_set=name,
        extra={key: found[key] for key in _KEPT if isinstance(found.get(key), str)},
    )
