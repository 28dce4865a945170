"""Recorded replies: modes, threads, processes, damaged files."""

import concurrent.futures
import json
import sqlite3
import subprocess
import sys
import threading

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
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
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
