"""A small data directory in the layout of mat.py, drawn from a seed: what commands and tests are tried on."""

import json
import os
import pathlib
import shutil
import tempfile

import numpy as np

from arft_jax.commands.tiny_steps import write_tiny_steps
from arft_jax.data.images import encode_png
from arft_jax.data.mat import CORPUS
from arft_jax.data.synthetic import coding, search
from arft_jax.data.synthetic.corpus import make_documents
from arft_jax.trajectory import Image


def make_tiny_data(
    directory: str | os.PathLike, *, seed: int = 0, n_train: int = 16, n_test: int = 8, n_chains: int = 0
) -> None:
    """Writes mat_coding/ and mat_search/ with their images and corpus; whole or not at all.

    The items are those of mini_coding and mini_search: cards that were spoilt, emblems of made-up houses.

    Args:
      directory: new or empty.
      seed: of items and corpus.
      n_train: rows of each training split.
      n_test: rows of each test split, simple and hard ones.
      n_chains: recorded chains of each agent, in the place of the training splits; 0: none.

    Raises:
      ValueError: a directory that is not empty, counts out of range.
    """
    directory = pathlib.Path(directory).absolute()
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ValueError(f"the output directory must be new or empty: got {directory}")
    if n_train < 1 or not 2 <= n_test <= search.N_TEST:
        raise ValueError(
            f"n_train must be at least 1 and n_test between 2 and {search.N_TEST}: got {n_train} and {n_test}"
        )
    directory.parent.mkdir(parents=True, exist_ok=True)
    folder = pathlib.Path(tempfile.mkdtemp(prefix=f".{directory.name}.", suffix=".partial", dir=directory.parent))
    try:
        # The first items of a test split are simple, the others hard: some of each.
        spread = {n: np.linspace(0, n - 1, n_test).astype(int).tolist() for n in (coding.N_TEST, search.N_TEST)}
        n_rows = 0 if n_chains else n_train
        for split, wanted in (("train", range(n_rows)), ("test", spread[coding.N_TEST])):
            _write_coding(folder / "mat_coding", split, [coding.make_item(seed, split, i) for i in wanted])
        for split, wanted in (("train", range(n_rows)), ("test", spread[search.N_TEST])):
            items = search.make_items(seed, split, wanted[-1] + 1 if wanted else 0)
            _write_search(folder / "mat_search", split, [items[i] for i in wanted])
        with open(folder / CORPUS, "w", encoding="utf-8") as lines:
            for number, document in enumerate(make_documents(seed)):
                row = dict(id=number, title=document.title, text=document.text, corpus=document.corpus)
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")
        if n_chains:
            write_tiny_steps(folder, seed=seed, n_items=n_chains)
        folder.chmod(0o755)  # mkdtemp's is for its owner alone
        os.rename(folder, directory)  # takes the place of an empty directory
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _write_coding(folder: pathlib.Path, split: str, items: list[coding.CodingItem]) -> None:
    rows = []
    for item in items:
        rows.append(
            {
                "id": item.id,
                "question": item.question,
                "answers": list(item.answers),
                "ori_image_path": _write_image(folder, f"{item.id}_ori.png", item.original),
                "processed_image_path": _write_image(folder, f"{item.id}_proc.png", item.processed),
                "type": list(item.kinds),
                "split": item.split,
            }
        )
    _write_rows(folder / f"{split}.json", rows)


def _write_search(folder: pathlib.Path, split: str, items: list[search.SearchItem]) -> None:
    rows = []
    for item in items:
        image_path = _write_image(folder, f"{item.id}.png", item.image)
        row = dict(id=item.id, question=item.question, answer=item.answer, image_path=image_path)
        rows.append(row | dict(split=item.split, corpus=item.corpus, query=item.query))
    _write_rows(folder / f"{split}.json", rows)


def _write_image(folder: pathlib.Path, name: str, pixels: np.ndarray) -> str:
    path = folder / "images" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(Image(pixels)))
    return f"images/{name}"


def _write_rows(path: pathlib.Path, rows: list[dict]) -> None:
    if not rows:
        return
    path.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
