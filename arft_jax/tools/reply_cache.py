"""Recorded replies of search services in one SQLite file: record once, replay offline, bit for bit.

Threads share a ReplyCache; processes open their own over the same file. The journal is SQLite's rollback journal:
nothing but the one file stays behind, and it works on file systems where a write-ahead log does not.

A hash over its key and its text stands beside each reply. A reply that is not what was recorded, and one that cannot be
read or written because the file is locked or damaged, counts as not recorded; that is logged once for each request and
counted. Files of earlier versions have no hashes: they are added in place when such a file is opened, in every mode, so
that recordings that were paid for go on to be replayed; damage is told from then on. A file that cannot be written then
is refused.

Source: https://www.sqlite.org/lockingv3.html, https://www.sqlite.org/lang_conflict.html.
"""

import contextlib
import hashlib
import json
import os
import sqlite3
import threading
import time
import urllib.parse
from collections.abc import Iterator
from typing import Any

from absl import logging

from arft_jax.tools.call import Fault
from arft_jax.words import CACHE_MODES

_APPLICATION_ID = 0x41524652  # "ARFR", in the file's header
_FORMAT = 2  # user_version; 1 had no hashes
_OPEN_S = 5.0  # waiting for another process's write, at the start and where there is no service to ask
_BUSY_S = 1.0  # the same where there is one; several calls wait one after another
_IMPATIENT_S = 30.0  # after a wait in vain, calls do not wait


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
        self._told: set[bytes] = set()  # requests of which a fault was logged
        self._n_faults = 0
        self._waits_from_s = 0.0  # time.monotonic()
        self._db: sqlite3.Connection | None = self._open()

    def _open(self) -> sqlite3.Connection:
        replay = self.mode == "replay"
        if replay and not os.path.isfile(self._path):
            raise ValueError(
                f"there must be recorded replies to replay: none at {self._path} (config.tools.search.cache)"
            )
        uri = f"file:{urllib.parse.quote(self._path)}?mode="
        db = None
        try:
            db = _connect(uri + ("ro" if replay else "rwc"))
            if not replay:
                self._create(db)
            if _format(db) == (_APPLICATION_ID, 1):
                db.close()
                db = _connect(uri + "rw")
                _add_hashes(db)
                logging.info("hashes were added to the recorded replies in %s", self._path)
                if replay:
                    db.close()
                    db = _connect(uri + "ro")
            if (found := _format(db)) != (_APPLICATION_ID, _FORMAT):
                raise sqlite3.DatabaseError("application {:#x}, format {}".format(*found))
            db.execute("SELECT key, sha256 FROM replies LIMIT 0")
            return db
        except sqlite3.Error as error:
            if db is not None:
                db.close()
            raise ValueError(
                f"recorded replies must lie in a file of their own: {self._path} ({error}) (config.tools.search.cache)"
            ) from None

    @staticmethod
    def _create(db: sqlite3.Connection) -> None:
        with _transaction(db):  # of several processes that start, one creates
            (n_tables,) = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            if n_tables == 0:
                db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                db.execute(f"PRAGMA user_version = {_FORMAT}")
                db.execute(
                    "CREATE TABLE replies (key BLOB PRIMARY KEY, backend TEXT NOT NULL, request TEXT NOT NULL,"
                    " reply TEXT NOT NULL, sha256 BLOB NOT NULL) WITHOUT ROWID"
                )

    @property
    def n_faults(self) -> int:
        """Replies since the start that were damaged, and those that could not be read or written."""
        return self._n_faults

    def _cursor(self) -> sqlite3.Connection:
        if self._db is None:
            raise Fault("the recorded replies are closed", retry=False)
        return self._db

    def _patience(self, db: sqlite3.Connection) -> None:
        """How long the next statement waits for another process: not at all soon after one has waited in vain.

        A replay always waits: nothing else can serve its calls.
        """
        wait_s = _BUSY_S if time.monotonic() >= self._waits_from_s else 0.0
        wait_s = _OPEN_S if self.mode == "replay" else wait_s
        db.execute(f"PRAGMA busy_timeout = {int(wait_s * 1000)}")

    def _fault(self, key: bytes, text: str, what: str) -> None:
        """Counts and tells what kept a reply from being read or written."""
        if "locked" in what:
            self._waits_from_s = time.monotonic() + _IMPATIENT_S
        self._n_faults += 1
        if key not in self._told:
            self._told.add(key)
            logging.warning("the recorded reply for %s in %s %s", text[:200], self._path, what)

    def get(self, backend: str, request: Any) -> Any | None:
        """The recorded reply, None where the service is to be asked.

        Args:
          backend: its name.
          request: a JSON value, normalised by the caller: equal requests must be equal values.

        Raises:
          Fault: nothing is recorded, or not to be read, and the service may not be asked.
        """
        key, text = _key(backend, request)
        with self._lock:
            if self.mode == "record" and key not in self._recorded:
                return None
            db, what = self._cursor(), ""
            try:
                self._patience(db)
                found = _find(db, key)
                if found is not None and not _is_whole(key, found):
                    what = "is damaged: it has another hash than was recorded"
            except sqlite3.Error as error:
                what = f"cannot be read: {error}"
            if what:
                found = None
                self._fault(key, text, what)
        if found is not None:
            return json.loads(found[0])
        if self.mode == "replay":
            what = f"the recorded reply {what}" if what else f"no reply of {backend} is recorded"
            raise Fault(f"{what} for {text[:200]} in {self._path}", retry=False)
        return None

    def put(self, backend: str, request: Any, reply: Any) -> Any:
        """Records a reply; returns what is recorded now, the first one where several came at the same time.

        A reply that cannot be written is returned too: its request will be asked again.

        Raises:
          Fault: a replay records nothing.
        """
        if self.mode == "replay":
            raise Fault(f"the replies in {self._path} are replayed: nothing may be recorded", retry=False)
        key, text = _key(backend, request)
        recorded = json.dumps(reply, allow_nan=False)
        row = (key, backend, text, recorded, _hash(key, recorded))
        with self._lock:
            db = self._cursor()
            replace = self.mode == "record" and key not in self._recorded
            try:
                self._patience(db)
                with _transaction(db):
                    found = None if replace else _find(db, key)
                    if found is None or not _is_whole(key, found):
                        db.execute("INSERT OR REPLACE INTO replies VALUES (?, ?, ?, ?, ?)", row)
                    else:
                        recorded = found[0]
                self._recorded.add(key)
            except sqlite3.Error as error:
                self._fault(key, text, f"cannot be written: {error}")
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


def _hash(key: bytes, reply: str) -> bytes:
    return hashlib.sha256(key + reply.encode("utf-8", "surrogatepass")).digest()


def _is_whole(key: bytes, row: tuple[Any, Any]) -> bool:
    """Whether a (reply, sha256) is what was recorded under a key."""
    return isinstance(row[0], str) and _hash(key, row[0]) == row[1]


def _find(db: sqlite3.Connection, key: bytes) -> tuple[Any, Any] | None:
    return db.execute("SELECT reply, sha256 FROM replies WHERE key = ?", (key,)).fetchone()


def _connect(uri: str) -> sqlite3.Connection:
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=_OPEN_S)


def _format(db: sqlite3.Connection) -> tuple[int, int]:
    """(whose file it is, of which format)."""
    found = [db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
    return found[0], found[1]


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All or nothing, and no other process writes meanwhile."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _add_hashes(db: sqlite3.Connection) -> None:
    db.create_function("hash_of", 2, _hash, deterministic=True)
    with _transaction(db):
        if _format(db)[1] == 1:  # another process may have been first
            db.execute("ALTER TABLE replies ADD COLUMN sha256 BLOB NOT NULL DEFAULT x''")
            db.execute("UPDATE replies SET sha256 = hash_of(key, reply)")
            db.execute(f"PRAGMA user_version = {_FORMAT}")
