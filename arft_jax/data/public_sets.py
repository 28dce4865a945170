"""Public benchmarks beside MAT, read from the files that their authors publish: which there are, and where they lie.

Each is a test split alone, in a folder of the data directory; its module has the layout.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable

from arft_jax.data import choice_sets, flashrag, mmsearch
from arft_jax.trajectory import Task


@dataclasses.dataclass(frozen=True)
class PublicSet:
    """A public benchmark.

    Args:
      needs: its files in the data directory, in words.
      page: where its authors publish it.
      n_items: how many items it has as published.
      file: the file of its items in a data directory; where there is none, the one that is missed.
      load: its items from a data directory.
    """

    needs: str
    page: str
    n_items: int
    file: Callable[[str | os.PathLike], pathlib.Path]
    load: Callable[[str | os.PathLike], list[Task]]


def _flashrag(name: str) -> PublicSet:
    split = flashrag.SPLITS[name]
    return PublicSet(
        needs=f"{name}/{split}.jsonl in FlashRAG's layout",
        page=flashrag.PAGE,
        n_items=flashrag.N_ITEMS[name],
        file=lambda data_dir: flashrag.split_file(name, split, data_dir),
        load=lambda data_dir: flashrag.load_split(name, split, data_dir),
    )


def _hr_bench(size: str) -> PublicSet:
    return PublicSet(
        needs=f"HR-Bench/hr_bench_{size}.parquet or .tsv",
        page=choice_sets.HR_PAGE,
        n_items=800,
        file=lambda data_dir: choice_sets.hr_file(size, data_dir),
        load=lambda data_dir: choice_sets.load_hr(size, data_dir),
    )


SETS = {name: _flashrag(name) for name in flashrag.NAMES} | {
    "vstar": PublicSet(
        needs="vstar_bench/test_questions.jsonl and its pictures",
        page=choice_sets.VSTAR_PAGE,
        n_items=191,
        file=choice_sets.vstar_file,
        load=choice_sets.load_vstar,
    ),
    "hrbench_4k": _hr_bench("4k"),
    "hrbench_8k": _hr_bench("8k"),
    "mmsearch": PublicSet(
        needs="MMSearch/end2end.parquet",
        page=mmsearch.PAGE,
        n_items=300,
        file=mmsearch.table_file,
        load=mmsearch.load,
    ),
}

# Where the documents that are searched for a set lie in the data directory: its own, else FlashRAG's Wikipedia.
_CORPORA = (
    "{name}/corpus.jsonl",
    "retrieval-corpus/wiki18_100w.jsonl",
    "FlashRAG_datasets/retrieval-corpus/wiki18_100w.jsonl",
)


def corpus_file(name: str, data_dir: str | os.PathLike) -> pathlib.Path | None:
    """The documents that are searched for a set; None where there are none."""
    paths = [pathlib.Path(data_dir) / place.format(name=name) for place in _CORPORA]
    return next((path for path in paths if path.is_file()), None)


def missing_files(name: str, data_dir: str, searches_here: bool) -> list[str]:
    """One sentence where the data directory lacks what a set needs; reads no file.

    Args:
      name: of the set.
      data_dir: empty: none was given.
      searches_here: its documents are searched in this machine's own index.
    """
    wanted = SETS[name]
    if not data_dir or not wanted.file(data_dir).is_file():
        there = f"{data_dir} has no {wanted.file(data_dir).relative_to(data_dir)}" if data_dir else "got none"
        if data_dir and not pathlib.Path(data_dir).is_dir():
            there = f"{data_dir} is no directory"
        return [f"{name} needs a data directory with {wanted.needs}, from {wanted.page}: {there} (config.data.dir)"]
    if searches_here and corpus_file(name, data_dir) is None:
        places = " or ".join(place.format(name=name) for place in _CORPORA[:2])
        return [
            f"{name} searches the documents of {places}, one JSON object with title and text, or contents, a line: "
            f"{data_dir} has none; another config.tools.search.backend needs none (config.data.dir)"
        ]
    return []
