"""Recorded steps in the layout of recorded_steps.py, drawn from a seed: what the reader and its config are tried on.

The chains are the right ones for the items of mini_coding and mini_search: problem, code and answer (problem and answer
where nothing is wrong), one search or two and the answer; a row for each of their steps.
"""

import json
import os
import pathlib

import numpy as np

from arft_jax.data.images import encode_png
from arft_jax.data.recorded_steps import FILES
from arft_jax.data.synthetic import coding, degrade, lexicon, search
from arft_jax.data.synthetic.chains import question_box
from arft_jax.data.synthetic.corpus import make_worlds
from arft_jax.tools.diagnose import tip, write_problems
from arft_jax.tools.python_tool import write_code
from arft_jax.tools.result_text import format_hits
from arft_jax.tools.search_backend import Hit
from arft_jax.trajectory import Image

MAX_RESULT_CHARS = 1000


def write_tiny_steps(directory: str | os.PathLike, *, seed: int = 0, n_items: int = 16) -> None:
    """Writes ``mat_training/`` with both files and their images into a data directory.

    Args:
      directory: where it goes.
      seed: of the items, which are the first of the training splits that make_tiny_data draws from that seed.
      n_items: chains of each agent; 2 or 3 rows each.

    Raises:
      ValueError: no chain.
      FileExistsError: the directory has a ``mat_training/`` already.
    """
    if n_items < 1:
        raise ValueError(f"n_items must be at least 1: got {n_items}")
    folder = pathlib.Path(directory) / "mat_training"
    folder.mkdir(parents=True)
    makers = {"mat_training_coding": _coding_rows, "mat_training_search": _search_rows}
    for name, make_rows in makers.items():
        path = folder / FILES[name]
        images = folder / f"{path.stem}_images"
        images.mkdir()
        rows = make_rows(images, seed, n_items)
        path.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_image(images: pathlib.Path, name: str, pixels: np.ndarray) -> str:
    (images / name).write_bytes(encode_png(Image(pixels)))
    return name


def _step(action: str, body: str) -> tuple[str, str]:
    """(the tag with its body, the same behind a thought)."""
    solution = f"<{action}> {body} </{action}>"
    return solution, f"<think> {lexicon.THOUGHTS[action][0]} </think>\n{solution}"


def _coding_rows(images: pathlib.Path, seed: int, n_items: int) -> list[dict]:
    rows = []
    for item in (coding.make_item(seed, "train", index) for index in range(n_items)):
        shown = item.original if item.kinds == ("crop",) else item.processed
        repaired = item.processed if item.kinds == ("crop",) else item.original
        shown = _write_image(images, f"{item.id}_proc.png", shown)
        repaired = _write_image(images, f"{item.id}_ori.png", repaired)
        kinds = sorted(item.kinds, key=lambda kind: kind not in degrade.ROTATIONS)
        steps = [
            (
                "pre_problem",
                shown,
                *_step("problem", write_problems({"problems": kinds})),
                f"<tips> {tip(tuple(kinds))} </tips>",
            )
        ]
        if kinds != ["none"]:
            code = write_code({"code": degrade.repair_code(tuple(kinds), question_box(item.question))})
            code = f"\n{code}\n"
            steps.append(("pre_code", shown, *_step("code", code), ""))
        steps.append(("pre_answer", repaired, *_step("answer", item.answers[0]), ""))
        said: list[str] = []
        for kind, image, solution, whole, reply in steps:
            row = dict(image_path=image, problem=item.question, context="\n".join(said), solution=solution)
            rows.append(row | dict(gt=whole, type=kind))
            said += [whole, reply] if reply else [whole]
    return rows


def _search_rows(images: pathlib.Path, seed: int, n_items: int) -> list[dict]:
    found = {(d.corpus, d.title): d.text for world in make_worlds(seed, "train") for d in world.documents}
    rows = []
    for item in search.make_items(seed, "train", n_items):
        image = _write_image(images, f"{item.id}.png", item.image)
        relation = next(word for word in lexicon.RELATIONS if f" {word} of " in item.question)
        queries = [item.query]
        if item.split == "hard":  # first the rival's name, then the fact of the rival
            queries.append(f"{found[item.corpus, item.query]} {relation}")
        problem = item.question
        for query in queries:
            solution, whole = _step("search", query)
            rows.append(dict(image_path=image, problem=problem, solution=solution))
            hits = format_hits([Hit(query, found[item.corpus, query], 1.0)], MAX_RESULT_CHARS)
            problem = f"{problem}\n{whole}\n{hits}"
        rows.append(dict(image_path=image, problem=problem, solution=_step("answer", item.answer)[0]))
    return rows
