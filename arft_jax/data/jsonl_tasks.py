"""Tasks from anyone: a JSONL file with one item a line, named ``jsonl:PATH`` in ``config.data.tasks``.

    id          text or integer, each once
    question    text; or ``messages`` in OpenAI's form (messages.py): one user message, before it perhaps a system
                message, which is then the item's own system prompt
    images      paths relative to the file's folder, none for an item of text alone
    answers     one accepted answer or a list: texts or numbers
    split       train or test
    kind        general (any tools in any order, then an answer), coding or search (the two agents of Visual-ARFT)
    tools       names of the tools that it may use, else all that are offered
    level       simple or hard: the halves of the tables, simple where it is not there
    corpus      the name of the documents that are searched for it, else all of its set's corpus
    query       a recorded first query, for config.rewards.step
    problems    true faults of the image, of kind coding: rotation90, rotation180, dark, overexposure, blur, noise, crop
                or none

``id``, ``answers`` and a question are required. Whatever else an item holds is kept in ``Task.extra``, which rewards
read; a key that looks like a misspelt one is refused. Items without ``split`` are training items; where no item of the
file says ``test``, every tenth of them by a hash of its id is a test item, one at least. A file ``<stem>.corpus.jsonl``
beside it is the set's own corpus (tools/passages.py).
"""

import hashlib
import os
import pathlib
from typing import Any

from arft_jax.data import items
from arft_jax.data.image_files import ImageFiles
from arft_jax.data.images import Quarantine
from arft_jax.data.messages import LineImages, content_of, messages_of
from arft_jax.trajectory import Task

KINDS = ("general", "coding", "search")
KEYS = (
    "id", "question", "messages", "images", "answers", "split", "kind", "tools", "level", "corpus", "query", "problems",
)  # fmt: skip
_TEST_ONE_IN = 10


def file_of(entry: str) -> pathlib.Path:
    """The file that ``jsonl:PATH`` names, relative to the current directory."""
    return pathlib.Path(entry.partition(":")[2]).expanduser()


def load_file(
    path: str | os.PathLike, n_train: int | None = None, quarantine: Quarantine | None = None, name: str = ""
) -> dict[str, list[Task]]:
    """``{"train": [...], "test": [...]}`` in the order of the file; images stay on disk.

    Args:
      path: the file.
      n_train: training items at most; None: all.
      quarantine: counts the training images that a stand-in replaces (image_files.py); None: they are refused.
      name: of the task set.

    Raises:
      ValueError: an unreadable file, an item that is not of the layout (its line and key are named), a split without
        items.
    """
    path = pathlib.Path(path)
    lines, where_by_id = items.read_json_lines(path), {}
    for where, item in lines:
        items.check_keys(item, KEYS, where)
        items.check_different(where_by_id, items.id_of(item, where), where)
    chosen = _splits(lines)
    files = {"train": ImageFiles(quarantine=quarantine), "test": ImageFiles()}
    tasks: dict[str, list[Task]] = {"train": [], "test": []}
    for (where, item), split in zip(lines, chosen, strict=True):
        if split == "test" or n_train is None or len(tasks["train"]) < n_train:
            tasks[split].append(_task(item, where, files[split], path.parent, name))
    for split, found in tasks.items():
        if not found:
            raise ValueError(f'{path} must hold train and test items: got no item of "split": "{split}" (split)')
    for opened in files.values():
        opened.tell_animated(path)
    return tasks


def _splits(lines: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """train or test for each line."""
    splits = [items.choice_of(item, "split", ("train", "test"), where, "train") for where, item in lines]
    free = [place for place, (_, item) in enumerate(lines) if "split" not in item]
    if "test" in splits or not free:
        return splits
    ids = [str(item["id"]).encode("utf-8", "replace") for _, item in lines]
    hashes = [int.from_bytes(hashlib.sha256(identity).digest()[:8]) for identity in ids]
    picked = [place for place in free if hashes[place] % _TEST_ONE_IN == 0] or [min(free, key=lambda at: hashes[at])]
    return ["test" if place in set(picked) else split for place, split in enumerate(splits)]


def _task(item: dict[str, Any], where: str, files: ImageFiles, folder: pathlib.Path, name: str) -> Task:
    if ("question" in item) == ("messages" in item):
        got = [key for key in ("question", "messages") if key in item]
        raise ValueError(f"{where}: an item must have question or messages, one of them: got {got}")
    opener = LineImages(files, folder, where, items.list_of(item, "images", where))
    system, images = "", ()
    if "messages" in item:
        system, question, images = _prompt(item, opener, where)
    else:
        question = items.text_of(item, "question", where)
    problems = items.names_of(item, "problems", where)
    items.check_problems(problems, "problems", where)
    return Task(
        id=items.id_of(item, where),
        kind=items.choice_of(item, "kind", KINDS, where, "general"),
        question=question,
        images=images + opener.rest(),
        answers=items.answers_of(item.get("answers"), "answers", where),
        problems=problems,
        split=items.choice_of(item, "level", ("simple", "hard"), where, "simple"),
        corpus=items.text_of(item, "corpus", where, ""),
        query=items.text_of(item, "query", where, ""),
        tools=items.names_of(item, "tools", where),
        system=system,
        task_set=name,
        extra={key: value for key, value in item.items() if key not in KEYS},
    )


def _prompt(item: dict[str, Any], opener: LineImages, where: str) -> tuple[str, str, tuple]:
    """(system text, question, images) of an item's messages."""
    messages = messages_of(item, where)
    roles = [message["role"] for message in messages]
    if roles not in (["user"], ["system", "user"]):
        raise items.wrong(where, "messages", "be one user message, perhaps behind a system message", roles)
    texts, images = [], ()
    for place, message in enumerate(messages):
        text, images = content_of(message, f"messages[{place}]", opener, where)
        if not text.strip():
            raise items.wrong(where, f"messages[{place}].content", "hold text, not blank", message.get("content"))
        if message["role"] == "system" and images:
            raise items.wrong(where, f"messages[{place}].content", "hold no image", message["content"])
        texts.append(text)
    return texts[0] if len(texts) > 1 else "", texts[-1], images
