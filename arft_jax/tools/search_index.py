"""A local full-text index with BM25 ranking, in one file, over SQLite FTS5.

Why SQLite: it is embedded, in Python's standard library and kept up for decades to come; its file is memory-mapped and
opened read-only, so all threads and processes of a host share one copy in the page cache; it updates no
state while searching, so the same query gives the same hits.

1. Chinese, Japanese and Korean are not written in words that the tokenizer (unicode61, Porter stems for
   English) could cut: their characters are indexed one by one, and a query looks for each character and for each
   pair of neighbours, so that documents with the whole word rank first.
2. The words of a query are joined by OR; each is quoted, so that nothing in a query is FTS5 syntax.

Source: https://www.sqlite.org/fts5.html (bm25, column filters, unicode61).
"""

import contextlib
import dataclasses
import os
import re
import sqlite3
import tempfile
import threading
import unicodedata
import urllib.parse
from collections.abc import Iterable, Iterator

_APPLICATION_ID = 0x41524654  # "ARFT", in the file's header
_FORMAT = 1  # user_version
_MMAP_BYTES = 1 << 40  # SQLite maps at most the file's size, and at most its own built-in cap
_MAX_QUERY_CHARS = 1000
_MAX_TERMS = 64
_COLUMNS = "title, body, corpus"
_TOKENIZER = "porter unicode61 remove_diacritics 2"

_CJK = (
    "\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u3100-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff"
)
_CJK_CHAR = re.compile(f"([{_CJK}])")
_TERM = re.compile(f"[{_CJK}]+|[^\\W_{_CJK}]+")


@dataclasses.dataclass(frozen=True)
class Document:
    """What can be found; ``corpus`` names the collection it belongs to."""

    title: str
    text: str
    corpus: str = ""


@dataclasses.dataclass(frozen=True)
class Hit:
    """A document found; a higher ``score`` (BM25, no unit) is a better match."""

    title: str
    text: str
    score: float


def _normalise(text: str) -> str:
    """One form for index and query: full-width letters become plain, lone surrogates go."""
    return unicodedata.normalize("NFKC", text.encode("utf-8", "ignore").decode("utf-8"))


def _indexable(text: str) -> str:
    """Sets every CJK character apart: ``北京 2008`` -> ``北  京  2008``."""
    return _CJK_CHAR.sub(r" \1 ", _normalise(text))


def _corpus_token(corpus: str) -> str:
    """A name as one token, whatever stands in it; the last digit keeps the stemmer away."""
    return "x" + corpus.encode("utf-8", "surrogatepass").hex() + "0"


def query_terms(query: str) -> list[str]:
    """The terms of a query, each once, in order.

    >>> query_terms('who founded "北京大学"? NOT a*')
    ['who', 'founded', '北', '京', '大', '学', '北 京', '京 大', '大 学', 'not', 'a']
    """
    terms: dict[str, None] = {}
    for run in _TERM.findall(_normalise(query[:_MAX_QUERY_CHARS]).lower()):
        if _CJK_CHAR.match(run):
            terms.update(dict.fromkeys(run))
            terms.update(dict.fromkeys(f"{a} {b}" for a, b in zip(run, run[1:], strict=False)))
        else:
            terms[run] = None
    return list(terms)[:_MAX_TERMS]


def _match_expression(terms: list[str], corpus: str) -> str:
    words = " OR ".join(f'"{term}"' for term in terms)  # terms hold letters, digits and spaces only
    match = f"{{title body}} : ({words})"
    return f'(corpus : "{_corpus_token(corpus)}") AND ({match})' if corpus else match


def _write(path: str, documents: Iterable[Document]) -> int:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = OFF")
        db.execute("PRAGMA synchronous = OFF")
        db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {_FORMAT}")
        db.execute("CREATE TABLE documents (id INTEGER PRIMARY KEY, title TEXT NOT NULL, text TEXT NOT NULL)")
        db.execute(f"CREATE VIRTUAL TABLE words USING fts5({_COLUMNS}, content='', tokenize='{_TOKENIZER}')")
        db.execute("BEGIN")
        n = 0
        for n, document in enumerate(documents, start=1):
            title, text = (part.encode("utf-8", "replace").decode("utf-8") for part in (document.title, document.text))
            db.execute("INSERT INTO documents VALUES (?, ?, ?)", (n, title, text))
            row = (n, _indexable(title), _indexable(text), _corpus_token(document.corpus))
            db.execute(f"INSERT INTO words (rowid, {_COLUMNS}) VALUES (?, ?, ?, ?)", row)
        db.execute("COMMIT")
        db.execute("INSERT INTO words (words) VALUES ('optimize')")
    return n


class SearchIndex:
    """Searches an index file. Threads may share it; processes open their own.

    Args:
      path: a file that :meth:`build` wrote; it must not change while it is open.
      title_weight: what a word in the title counts.
      body_weight: what a word in the text counts.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if the file is no search index, or of another format version.
    """

    def __init__(self, path: str | os.PathLike[str], title_weight: float = 3.0, body_weight: float = 1.0):
        self._path = os.path.abspath(os.fspath(path))
        self._weights = (float(title_weight), float(body_weight))
        self._idle: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        self._closed = False
        if not os.path.isfile(self._path):
            raise FileNotFoundError(f"no search index at {self._path}: build it with SearchIndex.build")
        with self._connection():
            pass

    @staticmethod
    def build(path: str | os.PathLike[str], documents: Iterable[Document]) -> int:
        """Writes an index, whole or not at all; readers of an older one at ``path`` keep what they opened.

        Args:
          path: where it goes; its folder must exist.
          documents: read once, in order; the order breaks ties between equal scores.

        Returns:
          The number of documents.
        """
        path = os.path.abspath(os.fspath(path))
        fd, temporary = tempfile.mkstemp(prefix=os.path.basename(path) + ".", suffix=".tmp", dir=os.path.dirname(path))
        os.close(fd)
        try:
            n = _write(temporary, documents)
            os.chmod(temporary, 0o644)
            with open(temporary, "rb") as f:
                os.fsync(f.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        return n

    def _connect(self) -> sqlite3.Connection:
        uri = f"file:{urllib.parse.quote(self._path)}?mode=ro&immutable=1"
        db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        try:
            db.execute(f"PRAGMA mmap_size = {_MMAP_BYTES}")
            db.execute("PRAGMA query_only = ON")
            (found,) = db.execute("PRAGMA application_id").fetchone()
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if found != _APPLICATION_ID:
                raise ValueError(f"{self._path} is no search index: build one with SearchIndex.build")
            if version != _FORMAT:
                raise ValueError(f"{self._path} must have index format {_FORMAT}: got {version}; build it anew")
            db.execute("SELECT rowid FROM words LIMIT 0")
        except sqlite3.DatabaseError as error:
            db.close()
            raise ValueError(f"{self._path} is no search index ({error}): build one with SearchIndex.build") from None
        except BaseException:
            db.close()
            raise
        return db

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """A connection that no other thread uses meanwhile; threads that end leave none behind."""
        with self._lock:
            if self._closed:
                raise ValueError("the search index is closed")
            db = self._idle.pop() if self._idle else None
        if db is None:
            db = self._connect()
        try:
            yield db
        finally:
            with self._lock:
                keep = not self._closed
                if keep:
                    self._idle.append(db)
            if not keep:
                db.close()

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
        terms = query_terms(query)
        if not terms:
            return []
        # The inner query ranks row numbers alone; texts are read for the hits only.
        statement = (
            "SELECT d.title, d.text, -hit.score FROM"
            " (SELECT rowid AS id, bm25(words, ?, ?, 0.0) AS score FROM words WHERE words MATCH ?"
            "  ORDER BY score, id LIMIT ?) AS hit"
            " JOIN documents AS d ON d.id = hit.id ORDER BY hit.score, hit.id"
        )
        arguments = (*self._weights, _match_expression(terms, corpus), top_k)
        with self._connection() as db:
            return [Hit(*row) for row in db.execute(statement, arguments)]

    def close(self) -> None:
        """Closes the connections; safe to repeat."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for db in idle:
            db.close()

    def __enter__(self) -> "SearchIndex":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
