"""Pictures of one's own with questions: the JSONL file that launch/make_data.py makes tasks of, one item a line.

    image        path of a picture, relative to the file's folder
    question     text
    answers      one accepted answer or a list; ``answer`` serves too
    id           text or integer, each once; else the line's number
    split        train or test; else by the picture, so that no picture is on both sides
    box          [x0, y0, x1, y1] in 0..1000 of width and height: where the answer is to be seen; such an item can be
                 asked as a crop
    query        what to search for: the item is one of search, of the documents of all items
    documents    [{"title", "text"}, ..] for the corpus, of any item
    level        of a search item: simple (the default) or hard

Whatever else a line holds goes with its tasks; a key that looks like a misspelt one is refused.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from arft_jax.data import items
from arft_jax.data.image_files import FileImage, ImageFiles, open_picture
from arft_jax.data.synthetic.degrade import Box

KEYS = ("image", "question", "answers", "answer", "id", "split", "box", "query", "documents", "level")
_OF_TASKS = ("images", "messages", "kind", "problems", "corpus", "tools")  # made, so a line may not have them


@dataclasses.dataclass(frozen=True)
class OwnItem:
    """One line; empty is what it does not have.

    Args:
      where: the line, for errors.
      number: its place among the items, from 0.
    """

    where: str
    number: int
    id: str
    image: FileImage
    question: str
    answers: tuple[str, ...]
    split: str
    box: Box | None
    query: str
    level: str
    documents: tuple[Mapping[str, Any], ...]
    extra: Mapping[str, Any]


def load(path: str | os.PathLike) -> list[OwnItem]:
    """The items of a file, in its order; pictures stay on disk.

    Raises:
      ValueError: an unreadable file or picture, a line of another layout; the line is named.
    """
    path, files = pathlib.Path(path), ImageFiles()
    found, where_by_id = [], {}
    for number, (where, line) in enumerate(items.read_json_lines(path, "--input")):
        items.check_keys(line, KEYS, where)
        if made := [key for key in _OF_TASKS if key in line]:
            raise ValueError(f"{where}: {made[0]} is made from the line, which must not have it: got {line[made[0]]!r}")
        identity = items.id_of({"id": number + 1, **line}, where)
        items.check_different(where_by_id, identity, where)
        key = "answers" if "answers" in line else "answer"
        query = items.text_of(line, "query", where) if "query" in line else ""
        found.append(
            OwnItem(
                where=where,
                number=number,
                id=identity,
                image=open_picture(files, path.parent, line.get("image"), where),
                question=items.text_of(line, "question", where),
                answers=items.answers_of(line.get(key), key, where),
                split=items.choice_of(line, "split", ("train", "test"), where, "train") if "split" in line else "",
                box=_box(line["box"], where) if "box" in line else None,
                query=query,
                level=items.choice_of(line, "level", ("simple", "hard"), where, "simple"),
                documents=_documents(items.list_of(line, "documents", where), where),
                extra={key: value for key, value in line.items() if key not in KEYS},
            )
        )
    return found


def _box(value: Any, where: str) -> Box:
    whole = isinstance(value, list) and len(value) == 4 and all(type(side) is int for side in value)
    if not whole or not (0 <= value[0] < value[2] <= 1000 and 0 <= value[1] < value[3] <= 1000):
        raise items.wrong(where, "box", "be [x0, y0, x1, y1], whole numbers of 0 to 1000, x0 < x1 and y0 < y1", value)
    return tuple(value)


def _documents(values: Sequence[Any], where: str) -> tuple[Mapping[str, Any], ...]:
    for place, value in enumerate(values):
        texts = [value.get(key) for key in ("title", "text")] if isinstance(value, dict) else [None]
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise items.wrong(where, f"documents[{place}]", "have a title and a text", value)
    return tuple({"title": value["title"], "text": value["text"]} for value in values)


def split_pictures(found: Sequence[OwnItem], test_frac: float) -> dict[str, str]:
    """``{sha256 of a picture: train or test}``; every set, of coding and of search, gets some of both.

    Args:
      found: the items.
      test_frac: share of the pictures without a split of their own that is test.

    Raises:
      ValueError: a picture on both sides, a set with pictures of one side alone.
    """
    sides: dict[str, str] = {}
    for item in found:
        if item.split and sides.setdefault(item.image.sha256, item.split) != item.split:
            raise ValueError(f"{item.where}: split must be that of the picture's other items: got {item.split!r}")
    free = {item.image.sha256 for item in found} - sides.keys()
    sides |= {sha256: "test" if int(sha256[:8], 16) < test_frac * 2**32 else "train" for sha256 in free}
    sets = {"coding": [i for i in found if not i.query], "search": [i for i in found if i.query]}
    shown = {kind: {item.image.sha256 for item in members} for kind, members in sets.items() if members}
    for of_set in shown.values():
        for side in ("test", "train"):
            if len(of_set) > 1 and of_set & free and side not in {sides[sha256] for sha256 in of_set}:
                sides[min(of_set & free)] = side
    for kind, of_set in shown.items():
        if missing := {"train", "test"} - {sides[sha256] for sha256 in of_set}:
            raise ValueError(
                f"a set must have a picture to train on and one to test on: the {kind} items show {len(of_set)} and "
                f"none to {min(missing)} on (--input, split)"
            )
    return sides
