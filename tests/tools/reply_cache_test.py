"""Recorded replies: modes, threads, processes, damaged files."""

import concurrent.futures
import hashlib
import json
import random
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from arft_jax.tools.call import Fault
from arft_jax.tools.reply_cache import ReplyCache

ASK = {"queries": ["red fox"], "topk": 2}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "replies.sqlite"


def test_what_is_recorded_is_replayed_to_the_last_bit(path):
    reply = [["tïtle \U0001f98a", "text \ud800 \x00", 0.1 + 0.2, ""], ["", "", -1e-308, "x"]]
    with ReplyCache(path, "record") as cache:
        assert cache.get("http", ASK) is None
        assert cache.put("http", ASK, reply) == reply
    with ReplyCache(path, "replay") as cache:
        replayed = cache.get("http", dict(reversed(ASK.items())))  # the order of keys is none of the request
        assert replayed == reply and json.dumps(replayed) == json.dumps(reply)


def test_a_replay_has_no_other_replies_and_changes_nothing(path):
    with ReplyCache(path, "record") as cache:
        cache.put("http", ASK, [])
    before = path.read_bytes()
    with ReplyCache(path, "replay") as cache:
        for backend, request in (("serper", ASK), ("http", ASK | {"topk": 3})):
            with pytest.raises(
                Fault, match=f"no reply of {backend} is recorded for .*red fox.*replies.sqlite"
            ) as fault:
                cache.get(backend, request)
            assert not fault.value.retry
        with pytest.raises(Fault, match="nothing may be recorded"):
            cache.put("http", ASK, ["other"])
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == [path.name]


def test_mixed_asks_only_for_what_is_missing(path):
    with ReplyCache(path, "mixed") as cache:
        assert cache.get("http", ASK) is None
        cache.put("http", ASK, ["first"])
        assert cache.get("http", ASK) == ["first"]
        assert cache.put("http", ASK, ["second"]) == ["first"]
    with ReplyCache(path, "mixed") as cache:
        assert cache.get("http", ASK) == ["first"]


def test_record_asks_once_a_run_and_replaces_what_older_runs_recorded(path):
    for run in ("old", "new"):
        with ReplyCache(path, "record") as cache:
            assert cache.get("http", ASK) is None
            assert cache.put("http", ASK, [run]) == [run]
            assert cache.get("http", ASK) == [run]
            assert cache.put("http", ASK, ["later in this run"]) == [run]
    with ReplyCache(path, "replay") as cache:
        assert cache.get("http", ASK) == ["new"]


@pytest.mark.parametrize("mode", ["record", "mixed"])
def test_threads_that_ask_the_same_are_given_the_same(path, mode):
    with ReplyCache(path, mode) as cache, concurrent.futures.ThreadPoolExecutor(8) as threads:
        for n in range(20):
            given = list(threads.map(lambda i, n=n: cache.put("http", {"n": n}, [i])[0], range(8)))
            recorded = cache.get("http", {"n": n})
            assert set(given) == set(recorded)


def test_processes_share_one_file(path):
    code = (
        "import sys; from arft_jax.tools.reply_cache import ReplyCache\n"
        "with ReplyCache(sys.argv[1], 'mixed') as cache:\n"
        "    print([cache.put('http', n, sys.argv[2]) for n in range(40)])"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(path), name], stdout=subprocess.PIPE, text=True)
        for name in "abc"
    ]
    printed = [process.communicate(timeout=60)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0]
    assert printed[0] == printed[1] == printed[2] and len(printed[0]) > 100
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_many_may_begin_a_file_at_once(tmp_path):
    meet = threading.Barrier(8)

    def begin(name):
        meet.wait(10)
        with ReplyCache(tmp_path / name, "mixed") as cache:
            return cache.put("http", ASK, [name])

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        for n in range(10):
            assert list(threads.map(begin, [f"{n}.sqlite"] * 8)) == [[f"{n}.sqlite"]] * 8


def test_no_file_to_replay_is_refused(path):
    with pytest.raises(ValueError, match=r"none at .*replies.sqlite \(config.tools.search.cache\)"):
        ReplyCache(path, "replay")
    assert not path.exists()


@pytest.mark.parametrize("mode", ["record", "replay", "mixed"])
def test_a_file_of_another_kind_is_refused_and_left_alone(path, mode):
    path.write_bytes(b"this is no database at all, whatever it is called" * 50)
    with pytest.raises(ValueError, match=r"a file of their own: .*\(config.tools.search.cache\)"):
        ReplyCache(path, mode)
    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE mine (x)")
    db.close()
    content = path.read_bytes()
    with pytest.raises(ValueError, match="a file of their own: .*application 0x0"):
        ReplyCache(path, mode)
    assert path.read_bytes() == content


def test_an_unknown_mode_is_refused(path):
    with pytest.raises(ValueError, match=r"mode must be one of .*: got 'off' \(config.tools.search.cache_mode\)"):
        ReplyCache(path, "off")


def test_a_closed_cache_says_so(path):
    cache = ReplyCache(path, "mixed")
    cache.close()
    cache.close()
    with pytest.raises(Fault, match="closed"):
        cache.get("http", ASK)


# ----------------------------------------------------------- damage and locks


def write(path, statement, *values):
    db = sqlite3.connect(path)
    with db:
        db.execute(statement, values)
    db.close()


def test_a_flipped_bit_never_replays_another_reply(path):
    requests = [ASK | {"topk": n} for n in range(40)]
    with ReplyCache(path, "record") as cache:
        for n, request in enumerate(requests):
            cache.put("http", request, [[f"title {n}", "text " * 40, 1.0, ""]])
    good, dice = path.read_bytes(), random.Random(0)
    harmed = path.with_name("harmed.sqlite")
    n_replies = n_faults = 0
    for _ in range(200):
        data = bytearray(good)
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        harmed.write_bytes(data)
        try:
            cache = ReplyCache(harmed, "replay")
        except ValueError:
            continue
        with cache:
            for n, request in enumerate(requests):
                try:
                    assert cache.get("http", request) == [[f"title {n}", "text " * 40, 1.0, ""]]
                    n_replies += 1
                except Fault:
                    n_faults += 1
    assert n_replies > 10 * n_faults > 500  # a flip harms one reply, or none


def test_a_reply_with_another_hash_is_asked_for_again_and_told_once(path, caplog):
    with ReplyCache(path, "mixed") as cache:
        cache.put("http", ASK, ["first"])
    write(path, "UPDATE replies SET reply = ?", '["other"]')
    with ReplyCache(path, "replay") as cache, caplog.at_level("WARNING"):
        for _ in range(2):
            with pytest.raises(Fault, match="the recorded reply is damaged: it has another hash .*red fox") as fault:
                cache.get("http", ASK)
            assert not fault.value.retry
        assert cache.n_faults == 2 and caplog.text.count("is damaged") == 1
    with ReplyCache(path, "mixed") as cache:
        assert cache.get("http", ASK) is None
        assert cache.put("http", ASK, ["second"]) == ["second"] == cache.get("http", ASK)


def test_a_reply_under_the_key_of_another_request_has_another_hash(path):
    with ReplyCache(path, "mixed") as cache:
        cache.put("http", ASK, ["fox"])
        cache.put("http", 2, ["two"])
    with sqlite3.connect(path) as db:
        [row] = db.execute("SELECT reply, sha256 FROM replies WHERE request = '2'")
    db.close()
    write(path, "UPDATE replies SET reply = ?, sha256 = ?", *row)
    with ReplyCache(path, "mixed") as cache:
        assert cache.get("http", ASK) is None and cache.get("http", 2) == ["two"]


def test_a_file_that_another_process_locks_costs_one_short_wait_and_no_call(path, caplog):
    with ReplyCache(path, "mixed") as cache:
        cache.put("http", ASK, ["first"])
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        begin = time.monotonic()
        with caplog.at_level("WARNING"):
            for n in range(8):
                assert cache.get("http", ASK) is None
                assert cache.put("http", ASK, [f"asked {n}"]) == [f"asked {n}"]
        assert time.monotonic() - begin < 3.0
        assert cache.n_faults == 16 and caplog.text.count("database is locked") == 1
        other.execute("ROLLBACK")
        other.close()
        assert cache.get("http", ASK) == ["first"]


def as_format_1(path):
    """Makes a file what the version before the hashes wrote."""
    rows = [(hashlib.sha256(json.dumps(["http", "1"]).encode()).digest(), "http", "1", '["one"]')]
    db = sqlite3.connect(path)
    with db:
        db.execute(f"PRAGMA application_id = {0x41524652}")
        db.execute("PRAGMA user_version = 1")
        db.execute(
            "CREATE TABLE replies (key BLOB PRIMARY KEY, backend TEXT NOT NULL, request TEXT NOT NULL,"
            " reply TEXT NOT NULL) WITHOUT ROWID"
        )
        db.executemany("INSERT INTO replies VALUES (?, ?, ?, ?)", rows)
    db.close()


@pytest.mark.parametrize("mode", ["replay", "mixed"])
def test_recordings_without_hashes_are_given_them_and_replayed(path, mode):
    as_format_1(path)
    with ReplyCache(path, mode) as cache:
        assert cache.get("http", 1) == ["one"] and cache.n_faults == 0
    write(path, "UPDATE replies SET reply = ?", '["two"]')
    with ReplyCache(path, "mixed") as cache:
        assert cache.get("http", 1) is None and cache.n_faults == 1


def test_recordings_without_hashes_that_cannot_be_written_are_refused(path, monkeypatch):
    as_format_1(path)
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda name, **kw: connect(name.replace("mode=rw", "mode=ro"), **kw))
    with pytest.raises(ValueError, match=r"replies.sqlite .*readonly.* \(config.tools.search.cache\)"):
        ReplyCache(path, "replay")
