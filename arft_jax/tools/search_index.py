"""A local full-text index with BM25 ranking, in one directory, over tantivy.

Why tantivy: it skips the passages that cannot reach the best k (block-max WAND), where SQLite FTS5 scores every
passage that holds any word of the question: over 200,000 passages of 100 words a question of eleven words took
FTS5 233 ms and tantivy 1.7 ms in the same minute. Its files are memory-mapped and only read, so that all threads and
processes of a host share one copy in the page cache. It has no dependencies and no server.

Source: Robertson & Zaragoza, The Probabilistic Relevance Framework (2009), BM25 with k1 = 1.2, b = 0.75; several fields
as in Robertson, Zaragoza, Taylor (2004): a word of the title counts as three of the text, in its frequency and in
the length. The engine rounds lengths above 40 words to 1/8 or finer. Departures:

1. A word that stands in over a tenth of all passages, and in over 20,000 of them, is passed over: it costs the most and
   says the least. Where a query has no other words, its four rarest are taken. Of very long queries the 32
   rarest words count.
2. Chinese, Japanese and Korean are not written in words that the tokenizer (letters and digits, English stems,
   Latin accents removed) could cut: their characters and each pair of neighbours are indexed, so that passages
   with the whole word rank first.
3. Nothing in a query is syntax. Scores are rounded to 4 digits behind the point, ties in the order of building.
"""

import collections
import contextlib
import dataclasses
import os
import pathlib
import re
import tempfile
import threading
import unicodedata
from collections.abc import Iterable, Iterator

import tantivy

from arft_jax.tools.search_backend import Hit
from arft_jax.tools.whole_directory import read_header, write_directory

__all__ = ["Document", "Hit", "SearchIndex"]

KIND, VERSION = "search_index", 2  # version 1 was one SQLite file
_COMMON_FRAC, _COMMON_MIN = 0.1, 20_000
_N_COMMON, _MAX_TERMS = 4, 32
_MAX_QUERY_CHARS = 1000
_MAX_WORD_BYTES = 256
_TITLE_WEIGHT = 3
_DIGITS = 4
_STORED = ("id", "title", "text")

_CJK = (
    "\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u3100-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff"
)
_CJK_RUN = re.compile(f"[{_CJK}]+")
_MAX_MARKS = 30  # on one letter, as in Unicode's stream-safe form (UAX #15): to sort n of them takes n squared
_NO_WORDS = re.compile(r"[^\w\s!-~]{31,}+")  # what holds a longer row of marks; most texts have none
_HALF_WIDTH_MARKS = {0xFF9E: 0x3099, 0xFF9F: 0x309A}  # the two marks that count as letters of a word


@dataclasses.dataclass(frozen=True)
class Document:
    """What can be found; ``corpus`` names the collection it belongs to, ``id`` is given back with it."""

    title: str
    text: str
    corpus: str = ""
    id: str = ""


def _pairs(run: re.Match) -> str:
    text = run.group()
    return f" {' '.join([*text, *(a + b for a, b in zip(text, text[1:], strict=False))])} "


def _prepare(text: str) -> str:
    """One form for index and query: ``２００８北京!`` -> ``2008 北 京 北京 !``."""
    if text.isascii():
        return text
    text = text.encode("utf-8", "ignore").decode("utf-8")  # lone surrogates go
    for half, whole in _HALF_WIDTH_MARKS.items():
        text = text.replace(chr(half), chr(whole))
    text = unicodedata.normalize("NFKC", _NO_WORDS.sub(_thinned, text))
    return _CJK_RUN.sub(_pairs, text)


def _thinned(run: re.Match) -> str:
    """The run without the marks behind the 30th in a row."""
    kept, n_marks = [], 0
    for char in run.group():
        n_marks = n_marks + 1 if unicodedata.combining(unicodedata.normalize("NFKD", char)[0]) else 0
        if n_marks <= _MAX_MARKS:
            kept.append(char)
    return "".join(kept)


def _analyzer() -> tantivy.TextAnalyzer:
    keep = tantivy.Filter
    filters = (keep.remove_long(_MAX_WORD_BYTES), keep.lowercase(), keep.ascii_fold(), keep.stemmer("english"))
    builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
    for each in filters:
        builder = builder.filter(each)
    return builder.build()


def _schema() -> tantivy.Schema:
    builder = tantivy.SchemaBuilder()
    builder.add_text_field("words", tokenizer_name="words", index_option="freq")
    builder.add_text_field("corpus", tokenizer_name="raw", index_option="basic")
    builder.add_integer_field("row", fast=True)
    for name in _STORED:  # bytes: a stored text would be indexed too
        builder.add_bytes_field(name, stored=True)
    return builder.build()


def _corpus_term(corpus: str) -> str:
    """A name as one term, whatever stands in it."""
    return "x" + corpus.encode("utf-8", "surrogatepass").hex()


def _add(writer: tantivy.IndexWriter, row: int, document: Document) -> None:
    title = f"{_prepare(document.title)} "
    fields = tantivy.Document(
        words=title * _TITLE_WEIGHT + _prepare(document.text), corpus=_corpus_term(document.corpus), row=row
    )
    for name in _STORED:
        fields.add_bytes(name, getattr(document, name).encode("utf-8", "replace"))
    writer.add_document(fields)


@contextlib.contextmanager
def _read_only(path: pathlib.Path) -> Iterator[str]:
    """A passing directory of links to the index's files.

    The engine makes a lock file beside the files that it reads, against a writer that no finished index has. So an
    index could not be read where it may not be written: on a read-only mount, or by another user.
    """
    with tempfile.TemporaryDirectory(prefix="arft-index-", ignore_cleanup_errors=True) as links:
        for file in path.iterdir():
            if not file.name.endswith(".lock"):
                os.symlink(file, os.path.join(links, file.name))
        yield links


class Turns:
    """Lets n callers through at a time, first come, first served, so that none waits much longer than the others."""

    def __init__(self, n: int):
        self._free, self._lock = n, threading.Lock()
        self._waiting: collections.deque[threading.Event] = collections.deque()

    @property
    def n_waiting(self) -> int:
        """Callers that wait for their turn."""
        return len(self._waiting)

    @property
    def n_free(self) -> int:
        """Callers that would be let through at once."""
        return self._free

    def __enter__(self) -> None:
        with self._lock:
            if self._free:
                self._free -= 1
                return
            turn = threading.Event()
            self._waiting.append(turn)
        turn.wait()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._free += 1


class SearchIndex:
    """Searches an index; a :class:`~arft_jax.tools.search_backend.SearchBackend`. Threads share it, processes open it.

    Args:
      path: a directory that :meth:`build` wrote.

    Raises:
      FileNotFoundError: if there is nothing under that name.
      ValueError: if it is no search index, a damaged one, or of another format version.
    """

    def __init__(self, path: str | os.PathLike[str]):
        path = pathlib.Path(path).absolute()
        self.n_documents: int = read_header(path, KIND, VERSION)["n_documents"]
        try:
            with _read_only(path) as links:
                index = tantivy.Index.open(links)
                index.config_reader(reload_policy="manual")
                searcher = index.searcher()  # maps every file; the links may go
        except (ValueError, OSError) as error:
            raise ValueError(f"{path} is a damaged search index ({error}): rebuild it") from None
        if searcher.num_docs != self.n_documents:
            raise ValueError(
                f"{path} must hold {self.n_documents} passages: got {searcher.num_docs}; it is damaged, rebuild it"
            )
        self._searcher: tantivy.Searcher | None = searcher
        self._schema, self._analyzer = index.schema, _analyzer()
        self._common = max(_COMMON_FRAC * self.n_documents, _COMMON_MIN)
        self._turns = Turns(max(2, os.cpu_count() or 1))  # more at once only take the processors from one another

    @staticmethod
    def build(path: str | os.PathLike[str], documents: Iterable[Document], memory_mb: int = 512) -> int:
        """Writes an index, whole or not at all; readers of an older one at ``path`` keep what they opened.

        Args:
          path: the directory to write; its parent must exist. An older index of that name is replaced.
          documents: read once, in order; the order breaks ties between equal scores.
          memory_mb: of the writer, 16 to 4000; what it gathers is written to disk whenever it is full. More gives
            fewer parts, which are a little faster to search.

        Returns:
          The number of documents.

        Raises:
          ValueError: no place for an index, or memory out of bounds.
        """
        if not 16 <= memory_mb <= 4000:
            raise ValueError(f"memory_mb must be in 16 .. 4000: got {memory_mb}")
        header = {"kind": KIND, "version": VERSION, "engine": f"tantivy {tantivy.__version__}", "n_documents": 0}
        with write_directory(path, header) as directory:
            index = tantivy.Index(_schema(), path=str(directory))
            index.register_tokenizer("words", _analyzer())
            writer = index.writer(memory_mb * 1_000_000, num_threads=1)
            try:
                for row, document in enumerate(documents):
                    _add(writer, row, document)
                    header["n_documents"] = row + 1
                writer.commit()
            except BaseException:
                writer.rollback()
                raise
            finally:
                writer.wait_merging_threads()
            for lock in directory.glob(".*.lock"):
                lock.unlink()
        return header["n_documents"]

    def _terms(self, searcher: tantivy.Searcher, query: str) -> list[str]:
        """The words of a query that are looked for, rarest first."""
        words = dict.fromkeys(self._analyzer.analyze(_prepare(query[:_MAX_QUERY_CHARS])))
        found = sorted((searcher.doc_freq("words", word), word) for word in words)
        found = [(n, word) for n, word in found if n]
        rare = [word for n, word in found if n <= self._common]
        return (rare or [word for _, word in found[:_N_COMMON]])[:_MAX_TERMS]

    def _query(self, searcher: tantivy.Searcher, terms: list[str], corpus: str) -> tantivy.Query:
        query, occur = tantivy.Query, tantivy.Occur
        words = query.boolean_query([(occur.Should, query.term_query(self._schema, "words", term)) for term in terms])
        if not corpus or searcher.doc_freq("corpus", _corpus_term(corpus)) == self.n_documents:
            return words
        of_corpus = query.const_score_query(query.term_query(self._schema, "corpus", _corpus_term(corpus)), 0.0)
        return query.boolean_query([(occur.Must, of_corpus), (occur.Must, words)])

    def _best(self, searcher: tantivy.Searcher, query: tantivy.Query, top_k: int) -> list[tuple[float, int, object]]:
        """(-score, row, address) of the best, with all the ties of the last of them looked at."""
        limit = top_k + 4
        while True:
            hits = searcher.search(query, limit, count=False).hits
            rows = searcher.fast_field_values("row", [address for _, address in hits])
            scored = [(-round(score, _DIGITS), row, at) for (score, at), row in zip(hits, rows, strict=True)]
            if len(hits) < limit or scored[-1][0] != scored[top_k - 1][0]:
                return sorted(scored, key=lambda hit: hit[:2])[:top_k]
            limit *= 4

    def search(self, query: str, top_k: int, corpus: str = "") -> list[Hit]:
        """Finds the documents that match any word of the query, best first, ties in the order of building.

        Args:
          query: any text; one without letters or digits finds nothing.
          top_k: at most so many hits.
          corpus: only documents of this collection; empty means all.

        Raises:
          ValueError: if ``top_k`` is below 1 or the index is closed.
        """
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1: got {top_k}")
        with self._turns:
            searcher = self._searcher
            if searcher is None:
                raise ValueError("the search index is closed")
            terms = self._terms(searcher, query)
            if not terms:
                return []
            hits = []
            for score, _, address in self._best(searcher, self._query(searcher, terms, corpus), top_k):
                stored = searcher.doc(address)
                id_, title, text = (stored.get_first(name).decode("utf-8") for name in _STORED)
                hits.append(Hit(title, text, -score, id_))
            return hits

    @property
    def n_segments(self) -> int:
        """Parts of the index, in Tantivy's word; 0 where it is closed."""
        return self._searcher.num_segments if self._searcher else 0

    def close(self) -> None:
        """Lets go of the files; safe to repeat."""
        self._searcher = None

    def __enter__(self) -> "SearchIndex":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
