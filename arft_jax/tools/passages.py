"""Passages read from files, one at a time, for a search index: JSON Lines or tab-separated, as published corpora are.

* ``.jsonl``: an object a line, ``{"id", "title", "text"}`` or, as in FlashRAG's wiki-18,
  ``{"id", "contents": "\\"Title\\"\\ntext"}``; ``corpus`` names a collection, where given.
* ``.tsv``: ``id``, ``text``, ``title``, as DPR's psgs_w100; a header line of these names is passed over.

Source: https://github.com/RUC-NLPIR/FlashRAG (corpus format), https://github.com/facebookresearch/DPR (psgs_w100.tsv).
"""

import csv
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO

from arft_jax.data.items import can_be_written
from arft_jax.io import terminal
from arft_jax.tools.search_index import Document, SearchIndex

_REPORT_EVERY = 5.0  # seconds
_SHOWN = 80  # characters of a text that is refused
_TSV_HEADER = ["id", "text", "title"]


def _text_of(record: dict, name: str) -> str:
    value = record.get(name, "")
    if isinstance(value, int) and name == "id" and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise ValueError(f"{name!r} must be a string: got {type(value).__name__}")
    return _checked(value, name)


def _checked(value: str, name: str) -> str:
    if not can_be_written(value):
        raise ValueError(f"{name!r} must hold no NUL and no lone surrogate: got {value[:_SHOWN]!r}")
    return value


def parse_json_line(line: str) -> Document:
    r"""One line of a ``.jsonl`` file.

    >>> parse_json_line('{"id": 7, "contents": "\\"Ada\\"\\nBorn in 1815."}')
    Document(title='Ada', text='Born in 1815.', corpus='', id='7')

    Raises:
      ValueError: no JSON object, no text, a field of another type, or one with a NUL or a lone surrogate.
    """
    record = json.loads(line)
    if not isinstance(record, dict):
        raise ValueError(f"a line must be a JSON object: got {type(record).__name__}")
    id_, corpus = _text_of(record, "id"), _text_of(record, "corpus")
    if "contents" in record:
        head, newline, text = _text_of(record, "contents").partition("\n")
        title = head.removeprefix('"').removesuffix('"')
        return Document(title, text, corpus, id_) if newline else Document("", head, corpus, id_)
    if "text" not in record:
        raise ValueError(f"an object must have 'text' or 'contents': got {sorted(record)[:8]}")
    return Document(_text_of(record, "title"), _text_of(record, "text"), corpus, id_)


def parse_tsv_line(line: str) -> Document | None:
    r"""One line of a ``.tsv`` file, None for its header.

    >>> parse_tsv_line('7\t"Born ""in"" 1815."\tAda')
    Document(title='Ada', text='Born "in" 1815.', corpus='', id='7')

    Raises:
      ValueError: other than three fields, an open quotation mark, or a NUL.
    """
    try:
        fields = next(csv.reader([line.rstrip("\r\n")], delimiter="\t", strict=True), [])
    except csv.Error as error:
        raise ValueError(str(error)) from None
    if len(fields) != 3:
        raise ValueError(f"a line must have 3 fields (id, text, title): got {len(fields)}")
    if fields == _TSV_HEADER:
        return None
    id_, text, title = map(_checked, fields, _TSV_HEADER)
    return Document(title, text, "", id_)


_PARSERS: dict[str, Callable[[str], Document | None]] = {".jsonl": parse_json_line, ".tsv": parse_tsv_line}


class PassageReader:
    """Reads files line by line; iterate once. ``n_bytes``, ``n_passages`` and ``n_bad`` say how far it is.

    Args:
      paths: ``.jsonl`` and ``.tsv`` files, read in this order.
      max_bad_lines: so many malformed lines are passed over and counted; one more is an error.
      corpus: the collection of passages that name none.

    Raises:
      ValueError: no file, a missing file or one of another kind; while reading: a malformed line, by file and number.
    """

    def __init__(self, paths: Sequence[str | os.PathLike[str]], max_bad_lines: int = 0, corpus: str = ""):
        if not paths:
            raise ValueError("at least one input file must be given (--input)")
        if max_bad_lines < 0:
            raise ValueError(f"max_bad_lines must be at least 0: got {max_bad_lines} (--max_bad_lines)")
        self.paths = [os.fspath(path) for path in paths]
        for path in self.paths:
            if not os.path.isfile(path):
                raise ValueError(f"an input file must exist: got {path} (--input)")
            if os.path.splitext(path)[1] not in _PARSERS:
                raise ValueError(f"an input file must end in {' or '.join(_PARSERS)}: got {path} (--input)")
        self.max_bad_lines, self.corpus = max_bad_lines, corpus
        self.total_bytes = sum(os.path.getsize(path) for path in self.paths)
        self.n_bytes = self.n_passages = self.n_bad = 0

    def _parse(self, path: str, number: int, line: bytes) -> Document | None:
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            return _PARSERS[os.path.splitext(path)[1]](text) if text.strip() else None
        except (ValueError, RecursionError) as error:
            self.n_bad += 1
            if self.n_bad > self.max_bad_lines:
                more = f" (malformed line {self.n_bad}; --max_bad_lines={self.max_bad_lines})"
                raise ValueError(f"{path}:{number}: {error}{more}") from None
            return None

    def __iter__(self) -> Iterator[Document]:
        for path in self.paths:
            with open(path, "rb") as file:
                for number, line in enumerate(file, start=1):
                    self.n_bytes += len(line)
                    document = self._parse(path, number, line)
                    if document is None:
                        continue
                    self.n_passages += 1
                    if self.corpus and not document.corpus:
                        document = Document(document.title, document.text, self.corpus, document.id)
                    yield document


def _reported(reader: PassageReader, out: TextIO) -> Iterator[Document]:
    """The reader's passages; every few seconds a line says how many, how fast and how much longer."""
    started = last = time.monotonic()
    for document in reader:
        now = time.monotonic()
        if now - last >= _REPORT_EVERY:
            last, spent_s = now, now - started
            left_s = spent_s * (reader.total_bytes / reader.n_bytes - 1)
            terminal.say(
                f"{reader.n_passages:,} passages, {reader.n_passages / spent_s:,.0f} a second, "
                f"{reader.n_bytes / reader.total_bytes:.1%} of the input, {left_s:.0f} s left",
                file=out,
            )
        yield document


def build_index(
    paths: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    max_bad_lines: int = 0,
    corpus: str = "",
    memory_mb: int = 512,
    progress: TextIO = sys.stderr,
) -> dict[str, int | float]:
    """Indexes files; the arguments are :class:`PassageReader`'s and ``SearchIndex.build``'s.

    Returns:
      passages, bad_lines, seconds and bytes of the index.

    Raises:
      ValueError: as those.
    """
    started = time.monotonic()
    reader = PassageReader(paths, max_bad_lines, corpus)
    n = SearchIndex.build(out, _reported(reader, progress), memory_mb)
    size = sum(os.path.getsize(file) for file in os.scandir(out))
    return {"passages": n, "bad_lines": reader.n_bad, "seconds": time.monotonic() - started, "bytes": size}
