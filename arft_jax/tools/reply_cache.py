"""Recorded replies of search services in one SQLite file: record once, replay offline, bit for bit.

Threads share a ReplyCache; processes open their own over the same file. The journal is SQLite's rollback journal:
nothing but the one file stays behind, and it works on file systems where a write-ahead log does not.

Source: https://www.sqlite.org/lockingv3.html, https://www.sqlite.org/lang_conflict.html.
"""

import hashlib
import json
import os
import sqlite3
import threading
import urllib.parse
from typing import Any

from arft_jax.tools.call import Fault
from arft_jax.words import CACHE_MODES

_APPLICATION_ID = 0x41524652  # "ARFR", in the file's header
_FORMAT = 1  # user_version
_BUSY_S = 5.0  # waiting for another process's write


class ReplyCache:
    """Replies by back-end and request.

    ``record`` asks the service once for each request of this run, and writes over what an older run recorded;
    ``replay`` never asks; ``mixed`` asks and records where nothing is recorded. In every mode a request
    that comes again is given the reply that a replay would give.

    Args:
      path: the file; written again where there is none, except to replay.
      mode: ``record``, ``replay`` or ``mixed``.

    Raises:
      ValueError: another mode, a file that is no reply cache, or none to replay.
    """

    def __init__(self, path: str | os.PathLike[str], mode: str):
        if mode not in CACHE_MODES[1:]:
            raise ValueError(f"mode must be one of {CACHE_MODES[1:]}: got {mode!r} (config.tools.search.cache_mode)")
        self.mode = mode
        self._path = os.path.abspath(os.fspath(path))
        self._lock = threading.Lock()
        self._recorded: set[bytes] = set()  # by this object
        self._db: sqlite3.Connection | None = self._open()

    def _open(self) -> sqlite3.Connection:
        replay = self.mode == "replay"
        if replay and not os.path.isfile(self._path):
            raise ValueError(
                f"there must be recorded replies to replay: none at {self._path} (config.tools.search.cache)"
            )
        uri = f"file:{urllib.parse.quote(self._path)}?mode={'ro' if replay else 'rwc'}"
        db = None
        try:
            db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=_BUSY_S)
            if not replay:
                self._create(db)
            (found,), (version,) = (db.execute(f"PRAGMA {p}").fetchone() for p in ("application_id", "user_version"))
            if (found, version) != (_APPLICATION_ID, _FORMAT):
                raise sqlite3.DatabaseError(f"application {found:#x}, format {version}")
            db.execute("SELECT key FROM replies LIMIT 0")
            return db
        except sqlite3.Error as error:
            if db is not None:
                db.close()
            raise ValueError(
                f"recorded replies must lie in a file of their own: {self._path} ({error}) (config.tools.search.cache)"
            ) from None

    @staticmethod
    def _create(db: sqlite3.Connection) -> None:
        db.execute("BEGIN IMMEDIATE")  # of several processes that start, one creates
        try:
            (n_tables,) = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            if n_tables == 0:
                db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                db.execute(f"PRAGMA user_version = {_FORMAT}")
                db.execute(
                    "CREATE TABLE replies (key BLOB PRIMARY KEY, backend TEXT NOT NULL, request TEXT NOT NULL,"
                    " reply TEXT NOT NULL) WITHOUT ROWID"
                )
            db.execute("COMMIT")
        except BaseException:
            db.execute("ROLLBACK")
            raise

    def _cursor(self) -> sqlite3.Connection:
        if self._db is None:
            raise Fault("the recorded replies are closed", retry=False)
        return self._db

    def get(self, backend: str, request: Any) -> Any | None:
        """The recorded reply, None where the service is to be asked.

        Args:
          backend: its name.
          request: a JSON value, normalised by the caller: equal requests must be equal values.

        Raises:
          Fault: nothing is recorded, and the service may not be asked.
        """
        key, text = _key(backend, request)
        with self._lock:
            if self.mode == "record" and key not in self._recorded:
                return None
            found = self._cursor().execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
        if found is not None:
            return json.loads(found[0])
        if self.mode == "replay":
            raise Fault(f"no reply of {backend} is recorded for {text[:200]} in {self._path}", retry=False)
        return None

    def put(self, backend: str, request: Any, reply: Any) -> Any:
        """Records a reply; returns what is recorded now, the first one where several came at the same time."""
        key, text = _key(backend, request)
        row = (key, backend, text, json.dumps(reply, allow_nan=False))
        with self._lock:
            db = self._cursor()
            replace = self.mode == "record" and key not in self._recorded
            db.execute(f"INSERT OR {'REPLACE' if replace else 'IGNORE'} INTO replies VALUES (?, ?, ?, ?)", row)
            (recorded,) = db.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
            self._recorded.add(key)
        return json.loads(recorded)

    def close(self) -> None:
        """Closes the file; safe to repeat."""
        with self._lock:
            db, self._db = self._db, None
        if db is not None:
            db.close()

    def __enter__(self) -> "ReplyCache":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _key(backend: str, request: Any) -> tuple[bytes, str]:
    text = json.dumps(request, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(json.dumps([backend, text]).encode("ascii")).digest(), text
