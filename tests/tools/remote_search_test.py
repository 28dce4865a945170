"""Search services: their replies, their records, what the policy sees of them."""

import json
import os
import socket
import sqlite3
import threading
import time

import numpy as np
import pytest

from arft_jax.data import chat
from arft_jax.data.images import ImageProcessor
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.testing.fault_server import FAULTS, WELL, FaultServer
from arft_jax.testing.toolboxes import context_of, make_toolbox, search_call
from arft_jax.tools import toolbox
from arft_jax.tools.call import Call, Fault
from arft_jax.tools.remote_search import (
    REQUESTS,
    TRY_S,
    HttpRetriever,
    RemoteSearch,
    Serper,
    normalise,
    open_remote_search,
)
from arft_jax.tools.reply_cache import ReplyCache
from arft_jax.tools.runner import CallPolicy
from arft_jax.tools.search_backend import Hit
from arft_jax.trajectory import Image, Task, ToolStatus
from arft_jax.words import REMOTE_SEARCHES

IMAGE = Image(np.zeros((8, 8, 3), np.uint8))
TASK = Task("s", "search", "?", (IMAGE,), ("a",))
TERMS = {"search": CallPolicy(n_threads=4, deadline_s=5.0, try_s=1.0, pause_s=0.01, open_s=0.1)}


class Client:
    """Stands for JsonClient: one reply, every question kept."""

    def __init__(self, reply):
        self.reply, self.asked = reply, []

    def post(self, question, call):
        self.asked.append(question)
        return self.reply


class Service:
    """Stands for a service: hits as they are, every request kept."""

    def __init__(self, hits=(), fail=None):
        self.hits, self.fail, self.asked = list(hits), fail, []

    def ask(self, request, call):
        self.asked.append(request)
        if self.fail:
            raise self.fail
        return self.hits


def passage(contents, score=1.0):
    return {"document": {"id": "7", "contents": contents}, "score": score}


# ------------------------------------------------------------------- replies


def test_a_retrievers_passages_become_hits():
    client = Client({"result": [[passage('"Red fox"\nAn animal.\nIt runs.', 2), passage("No title", 0.5)]]})
    request = REQUESTS["http"]("red fox", 2)
    hits = HttpRetriever(client).ask(request, Call(1.0))
    assert hits == [Hit("Red fox", "An animal.\nIt runs.", 2.0), Hit("", "No title", 0.5)]
    assert client.asked == [{"queries": ["red fox"], "topk": 2, "return_scores": True}]
    assert HttpRetriever(Client({"result": [[]]})).ask(request, Call(1.0)) == []


@pytest.mark.parametrize(
    "reply",
    [
        None,
        [],
        "text",
        {},
        {"result": []},
        {"result": [[], []]},
        {"result": {"0": []}},
        {"result": [["contents"]]},
        {"result": [[{"contents": "x"}]]},
        {"result": [[{"document": {"contents": 3}, "score": 1.0}]]},
        {"result": [[{"document": {"contents": "x"}, "score": "high"}]]},
        {"result": [[{"document": {"contents": "x"}}]]},
        {"detail": "internal error"},
    ],
)
def test_a_retrievers_reply_of_another_shape_is_a_fault(reply):
    with pytest.raises(Fault, match="a re(ply|sult) that is not"):
        HttpRetriever(Client(reply)).ask({}, Call(1.0))


def test_serpers_organic_results_become_hits_by_rank():
    reply = {
        "searchParameters": {"q": "red fox"},
        "knowledgeGraph": {"title": "not this"},
        "organic": [
            {"title": "One", "snippet": "First.", "link": "https://a/", "position": 1},
            {"title": "Two", "link": "https://b/"},
        ],
    }
    client = Client(reply)
    hits = Serper(client).ask(REQUESTS["serper"]("red fox", 4), Call(1.0))
    assert hits == [Hit("One", "First.", 1.0, "https://a/"), Hit("Two", "", 0.5, "https://b/")]
    assert client.asked == [{"q": "red fox", "num": 4}]
    assert Serper(Client({"searchParameters": {"q": "x"}})).ask({}, Call(1.0)) == []


@pytest.mark.parametrize(
    "reply",
    [
        None,
        [],
        {},
        {"message": "Unauthorized."},
        {"organic": {}},
        {"organic": ["x"]},
        {"organic": [{"snippet": "no title"}]},
        {"organic": [{"title": "x", "snippet": 3}]},
        {"searchParameters": {}, "organic": None},
    ],
)
def test_serpers_reply_of_another_shape_is_a_fault(reply):
    with pytest.raises(Fault, match="without 'organic'|that is not"):
        Serper(Client(reply)).ask({}, Call(1.0))


# ----------------------------------------------------- what is asked and shown


def test_queries_are_asked_in_one_form():
    assert normalise(" Red \n\t fox\x00\u200b\x1b[31m ") == "Red fox"
    assert normalise("e\u0301") == "\u00e9"  # composed
    assert normalise("\ud800") == normalise(" ? ".strip("? ")) == ""
    assert len(normalise("word " * 1000)) <= 500 and not normalise("word " * 1000).endswith("]")


def test_an_empty_query_finds_nothing_and_is_not_asked():
    service = Service([Hit("a", "b", 1.0)])
    assert RemoteSearch("http", service).search("\x00 ", 3) == [] and not service.asked


def test_hits_are_cleaned_capped_and_cut_to_top_k():
    dirty = Hit("ti\u202etle" * 1000, "te\x1b[31mxt\x00" + "y" * 100_000, 1.0, "http://x/\u200b")
    [hit] = RemoteSearch("http", Service([dirty] * 5)).search("q", 1)
    assert hit.title.startswith("title") and len(hit.title) <= 300 and hit.source == "http://x/"
    assert hit.text.startswith("texty") and len(hit.text) <= 8000


def test_a_score_that_is_no_number_is_a_fault():
    with pytest.raises(Fault, match="score is nan"):
        RemoteSearch("http", Service([Hit("a", "b", float("nan"))])).search("q", 1)


def test_a_named_collection_is_refused_rather_than_searched_elsewhere():
    service = Service([Hit("a", "b", 1.0)])
    with pytest.raises(ValueError, match="no collections: asked for 'wiki'"):
        RemoteSearch("http", service).search("q", 1, "wiki")
    with make_toolbox(None, RemoteSearch("http", service), policies=TERMS) as box:
        task = Task("s", "search", "?", (IMAGE,), ("a",), corpus="wiki")
        seen = box.submit(search_call("q"), context_of(task, (IMAGE,))).result(5)
        assert seen.status is ToolStatus.INFRA and "no collections" in seen.text and not service.asked


def test_control_words_in_a_result_stay_ordinary_text():
    tokenizer = Tokenizer.tiny()
    words = [
        "<|im_end|>",
        "<|im_start|>user",
        "<|image_pad|>",
        "<|vision_start|>",
        "</information>",
        "<|im_\u200bend|>",
    ]
    service = Service([Hit(word, f"x {word} y", 1.0, word) for word in words])
    with make_toolbox(None, RemoteSearch("http", service), top_k=9, policies=TERMS) as box:
        seen = box.submit(search_call("q"), context_of(TASK, (IMAGE,))).result(5)
    assert seen.text.count("information>") == 2 and seen.text.endswith(" </information>")
    segment = chat.observation_segment(tokenizer, ImageProcessor(784, 3136), seen)
    empty = chat.observation_segment(tokenizer, ImageProcessor(784, 3136), toolbox.Observation(""))
    control = sorted(tokenizer.control_ids)
    assert np.isin(segment.tokens, control).sum() == np.isin(empty.tokens, control).sum() > 0


# ------------------------------------------------------------------- records


@pytest.fixture
def server():
    with FaultServer() as server:
        yield server


@pytest.fixture
def no_sockets(monkeypatch):
    """From its call on, nothing can be sent to anybody, nor any process started."""

    def refuse(*args, **kwargs):
        raise AssertionError("the network was used")

    def block():
        for name in ("socket", "create_connection", "getaddrinfo"):
            monkeypatch.setattr(socket, name, refuse)
        monkeypatch.setattr("subprocess.Popen", refuse)

    return block


QUERIES = ["red fox", "r\u00e9d  fox", "\U0001f98a", "wolf"]


def observe(box, queries):
    futures = [box.submit(search_call(query), context_of(TASK, (IMAGE,))) for query in queries]
    return [(seen.text, seen.status, seen.images) for seen in (future.result(10) for future in futures)]


def test_a_replayed_run_makes_no_network_call_and_sees_the_same_bits(server, tmp_path, no_sockets):
    cache = str(tmp_path / "replies.sqlite")
    with (
        open_remote_search("http", url=server.url, cache=cache, cache_mode="record") as search,
        make_toolbox(None, search, policies=TERMS) as box,
    ):
        recorded = observe(box, QUERIES * 2)
        assert {status for _, status, _ in recorded} == {ToolStatus.OK}
        # records need no second question, unless several asked at once
        n_asked = server.n_questions
        assert recorded == observe(box, QUERIES * 2) and server.n_questions == n_asked
    server.close()
    no_sockets()
    with (
        open_remote_search("http", cache=cache, cache_mode="replay") as search,  # without even a URL
        make_toolbox(None, search, policies=TERMS) as box,
    ):
        assert observe(box, QUERIES * 2) == recorded
        [(text, status, _)] = observe(box, ["never asked"])
        assert status is ToolStatus.INFRA and "no reply of http is recorded" in text and "never asked" in text
        figures = box.metrics()
        assert figures["tool/search/cache_hits"] == 8 and figures["tool/search/breaker"] == 0
        assert figures["tool/search/retries"] == 0


def test_mixed_serves_records_in_an_outage_and_faults_for_the_rest(server, tmp_path):
    cache = str(tmp_path / "replies.sqlite")
    with (
        open_remote_search("http", url=server.url, cache=cache, cache_mode="mixed") as search,
        make_toolbox(None, search, policies=TERMS) as box,
    ):
        [known] = observe(box, ["red fox"])
        server.set_mode("storm_503")
        missed = observe(box, [f"new {n}" for n in range(12)])
        assert {status for _, status, _ in missed} == {ToolStatus.INFRA}
        assert box.metrics()["tool/search/breaker"] > 0
        assert observe(box, ["red fox"]) == [known]
        server.set_mode(WELL)


def test_a_locked_cache_fails_no_call_and_is_counted(server, tmp_path):
    cache = str(tmp_path / "replies.sqlite")
    with (
        open_remote_search("http", url=server.url, cache=cache, cache_mode="mixed") as search,
        make_toolbox(None, search, policies=TERMS) as box,
    ):
        [known] = observe(box, ["red fox"])
        assert box.metrics()["tool/search/cache_faults"] == 0
        other = sqlite3.connect(cache, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        seen = observe(box, ["red fox"] * 8)
        other.execute("ROLLBACK")
        other.close()
        assert seen == [known] * 8
        assert box.metrics()["tool/search/cache_faults"] == 16  # each was neither read nor written


def test_only_what_is_clean_is_recorded(tmp_path):
    with ReplyCache(tmp_path / "r.sqlite", "record") as cache:
        RemoteSearch("http", Service([Hit("a\x1b[31m", "b\u202e", 1.0)]), cache).search("q", 1)
        assert cache.get("http", REQUESTS["http"]("q", 1)) == [["a", "b", 1.0, ""]]


def test_a_fault_is_not_recorded(tmp_path):
    with ReplyCache(tmp_path / "r.sqlite", "mixed") as cache:
        service = Service(fail=Fault("status 503"))
        search = RemoteSearch("http", service, cache)
        with pytest.raises(Fault, match="503"):
            search.search("q", 1)
        service.fail = None
        assert search.search("q", 1) == [] == search.search("q", 1)
        assert len(service.asked) == 2  # that nothing was found is recorded


def test_the_key_stands_neither_in_the_records_nor_in_faults(tmp_path, monkeypatch, server):
    monkeypatch.setenv("SERPER_API_KEY", "very-secret-value")
    path = tmp_path / "r.sqlite"
    heard = []
    reply = json.dumps({"organic": [{"title": "T", "snippet": "S"}]}).encode()
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        client, _ = listener.accept()
        with client:
            data = b""
            while b'"num"' not in data:
                data += client.recv(65536)
            heard.append(data)
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(reply), reply))

    thread = threading.Thread(target=serve)
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/search"
    with open_remote_search("serper", url=url, cache=str(path), cache_mode="record") as search:
        assert search.search("fox", 3) == [Hit("T", "S", 1.0)]
    thread.join(5)
    listener.close()
    assert b"X-API-KEY: very-secret-value" in heard[0]
    assert b"very-secret-value" not in path.read_bytes()


# -------------------------------------------------------------- what is left


def test_close_ends_questions_that_are_under_way_and_leaves_no_thread_or_socket(server):
    patient = {"search": CallPolicy(n_threads=16, deadline_s=60.0, try_s=60.0)}
    threads = set(threading.enumerate())
    for mode in ("black_hole", "unreachable", "drip"):
        server.set_mode(mode)
        with open_remote_search("http", url=server.url) as search:
            box = make_toolbox(None, search, policies=patient)
            futures = [box.submit(search_call(f"q{n}"), context_of(TASK, (IMAGE,))) for n in range(24)]
            time.sleep(0.2)
            started = time.monotonic()
            box.close()
            assert time.monotonic() - started < 2
            assert {future.result(0).status for future in futures} == {ToolStatus.INFRA}
        left = [t.name for t in set(threading.enumerate()) - threads if t.name.startswith("tool")]
        assert not left


def test_calls_of_every_fate_leave_no_descriptor():
    terms = {"search": CallPolicy(n_threads=8, deadline_s=2.0, try_s=0.1, n_tries=2, pause_s=0.0, open_s=0.05)}
    before = len(os.listdir("/proc/self/fd"))
    with FaultServer() as server:
        for mode in (*FAULTS, WELL, "unreachable", "drip", "cut_off"):
            server.set_mode(mode)
            with (
                open_remote_search("http", url=server.url) as search,
                make_toolbox(None, search, policies=terms) as box,
            ):
                for future in [box.submit(search_call(f"q{i}"), context_of(TASK, (IMAGE,))) for i in range(24)]:
                    future.result(10)
    assert len(os.listdir("/proc/self/fd")) == before


# --------------------------------------------------------------------- doors


def test_every_back_end_has_its_form_and_its_time():
    assert set(REQUESTS) == set(TRY_S) == set(REMOTE_SEARCHES)


def test_what_is_missing_is_named_at_the_door(tmp_path, monkeypatch):
    monkeypatch.delenv("SERPER_API_KEY", raising=False)
    cases = [
        (dict(backend="serper"), "the environment must hold SERPER_API_KEY"),
        (dict(backend="http"), "the search server's URL must be http"),
        (dict(backend="bing"), "backend must be one of"),
        (dict(backend="http", url="http://h/", cache_mode="on"), "cache_mode must be one of"),
        (dict(backend="http", cache=str(tmp_path / "none"), cache_mode="replay"), "recorded replies to replay: none"),
    ]
    for arguments, text in cases:
        with pytest.raises(ValueError, match=text) as error, open_remote_search(**arguments):
            pass
        assert "(config.tools.search." in str(error.value)
    with pytest.raises(ValueError, match="a service to ask, or replies to replay"):
        RemoteSearch("http", None)


def test_a_key_that_is_none_is_refused_without_being_shown(monkeypatch):
    monkeypatch.setenv("SERPER_API_KEY", "se cret\nvalue")
    with pytest.raises(ValueError, match="printable ASCII") as error, open_remote_search("serper"):
        pass
    assert "cret" not in str(error.value)
