"""From a corpus file to the local search index that tasks are asked over, built on first use.

Lines of a corpus are the JSON lines of ``tools/passages.py``: ``title`` and ``text``, or ``contents`` as in FlashRAG.
"""

import os
import pathlib
from collections.abc import Iterator

from arft_jax.data.synthetic.corpus import make_documents
from arft_jax.tools.passages import parse_json_line
from arft_jax.tools.search_index import Document, SearchIndex

_KEYS = "config.data.dir, or the file beside that of config.data.tasks"


def read_corpus(path: str | os.PathLike) -> Iterator[Document]:
    """The documents of a JSONL file, one line at a time; empty lines are passed over.

    Raises:
      ValueError: a line that is no document; its number is named.
    """
    try:
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _document(line, f"line {number} of {path}")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the corpus must be a readable UTF-8 file: got {path} ({error})") from error


def _document(line: str, where: str) -> Document:
    try:
        return parse_json_line(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} must be a JSON object with text, or contents: {error} ({_KEYS})") from error


def corpus_index_path(
    corpus: str | os.PathLike, elsewhere: str | os.PathLike, name: str = "mat_search"
) -> pathlib.Path:
    """Where the index of a corpus is kept: beside it, or ``elsewhere`` where its folder cannot be written.

    Args:
      corpus: the file of documents.
      elsewhere: a folder.
      name: of the task set, which the index is named for elsewhere.
    """
    corpus = pathlib.Path(corpus)
    beside = corpus.with_suffix(".index")
    return beside if os.access(corpus.parent, os.W_OK) else pathlib.Path(elsewhere) / f"{name}-{beside.name}"


def index_corpus(corpus: str | os.PathLike, index: str | os.PathLike) -> bool:
    """Builds the index where there is none of this corpus; says whether it did.

    An index is given its corpus's time of change: a corpus that is replaced, even by an older one, is indexed again.

    Raises:
      ValueError: a corpus that cannot be read, or holds nothing.
    """
    index = pathlib.Path(index)
    time_ns = os.stat(corpus).st_mtime_ns
    if index.exists() and index.stat().st_mtime_ns == time_ns and _can_be_read(index):
        return False
    if next(read_corpus(corpus), None) is None:
        raise ValueError(f"the corpus must hold documents: got an empty {corpus}")
    index.parent.mkdir(parents=True, exist_ok=True)
    SearchIndex.build(index, read_corpus(corpus))
    os.utime(index, ns=(time_ns, time_ns))
    return True


def _can_be_read(index: pathlib.Path) -> bool:
    try:
        SearchIndex(index).close()
    except (ValueError, FileNotFoundError):  # damaged, or of another version: all that is in it is in the corpus
        return False
    return True


def index_mini(seed: int, index: str | os.PathLike) -> None:
    """Builds the index of mini_search's worlds of a seed where it is not there."""
    if not os.path.exists(index):
        SearchIndex.build(index, (Document(d.title, d.text, d.corpus) for d in make_documents(seed)))
