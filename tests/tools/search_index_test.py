"""The full-text index: ranking, languages, filters, hostile queries, files."""

import concurrent.futures
import math
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time

import pytest

from arft_jax.tools import search_index
from arft_jax.tools.search_index import Document, SearchIndex

DOCUMENTS = [
    Document("Ada Lovelace", "A mathematician who wrote the first program for the Analytical Engine.", "people"),
    Document("Analytical Engine", "A mechanical computer that Charles Babbage designed.", "machines"),
    Document("Charles Babbage", "An inventor. He knew Ada Lovelace well.", "people"),
    Document("北京大学", "位于北京市海淀区的大学，创办于1898年。", "schools"),
    Document("北海", "大海在南，京在北，学而时习之。", "places"),
    Document("Café Zürich", "Serves coffee since 1920.", "places"),
]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    path = tmp_path_factory.mktemp("index") / "a #1?%20.index"
    assert SearchIndex.build(path, iter(DOCUMENTS)) == len(DOCUMENTS)
    with SearchIndex(path) as built:
        yield built


def titles(hits):
    return [hit.title for hit in hits]


def test_a_title_counts_more_than_a_text(index):
    assert titles(index.search("ada lovelace", 5)) == ["Ada Lovelace", "Charles Babbage"]
    assert titles(index.search("analytical engine", 5)) == ["Analytical Engine", "Ada Lovelace"]


def test_scores_equal_the_bm25_formula_and_a_title_word_counts_three_times(tmp_path):
    # idf * f * 2.2 / (f + 1.2 * (0.25 + 0.75 * n / mean n)), idf = ln(1 + (N - df + 0.5) / (df + 0.5)).
    SearchIndex.build(
        tmp_path / "i", [Document("", "red fox"), Document("red", "blue fox sky sky"), Document("", "grey")]
    )
    lengths = (2, 3 + 4, 1)
    idf = math.log(1 + (3 - 2 + 0.5) / (2 + 0.5))
    expected = [
        idf * f * 2.2 / (f + 1.2 * (0.25 + 0.75 * n / (sum(lengths) / 3)))
        for f, n in ((1, lengths[0]), (3, lengths[1]))
    ]
    with SearchIndex(tmp_path / "i") as index:
        hits = index.search("red", 5)
    assert [hit.text for hit in hits] == ["blue fox sky sky", "red fox"]
    assert [hit.score for hit in hits] == pytest.approx(expected[::-1], abs=6e-5)


def test_any_word_matches_and_more_words_rank_higher(index):
    hits = index.search("inventor mathematician coffee engine program", 10)
    assert hits[0].title == "Ada Lovelace"
    assert set(titles(hits)) == {"Ada Lovelace", "Analytical Engine", "Charles Babbage", "Café Zürich"}
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert titles(index.search("inventor mathematician coffee engine", 2)) == titles(hits)[:2] or len(hits) > 2


def test_texts_come_back_as_they_were(index):
    (hit,) = index.search("海淀区", 1)
    assert (hit.title, hit.text) == ("北京大学", "位于北京市海淀区的大学，创办于1898年。")


def test_chinese_is_found_by_characters_and_whole_words_rank_first(index):
    # Both documents hold all four characters; only one holds them side by side.
    assert titles(index.search("北京大学在哪里？", 5)) == ["北京大学", "北海"]
    assert titles(index.search("创办于１８９８年", 1)) == ["北京大学"]


def test_case_accents_and_endings_do_not_matter(index):
    for query in ("cafe zurich", "CAFÉ", "serving", "Cafe\u0301"):
        assert titles(index.search(query, 5)) == ["Café Zürich"], query


def test_the_corpus_filter_keeps_its_documents_only(index):
    assert titles(index.search("ada engine", 5, corpus="machines")) == ["Analytical Engine"]
    assert titles(index.search("ada engine coffee", 5, corpus="people")) == ["Ada Lovelace", "Charles Babbage"]
    for corpus in ("nowhere", "people OR machines", '"', "PEOPLE"):
        assert index.search("ada", 5, corpus=corpus) == []
    assert index.search("people", 5) == []  # a corpus name is no text


@pytest.mark.parametrize("query", ["", "   ", "?!…", '"""', "()*:^-+", "\0", "\ud800", "😀", "_ _"])
def test_a_query_without_words_finds_nothing(index, query):
    assert index.search(query, 5) == []


@pytest.mark.parametrize(
    "query",
    [
        'ada"',
        'ada" OR "engine',
        "ada AND",
        "NEAR(ada, 2)",
        "title : ada",
        "{title} : ada",
        "ada*",
        "^ada",
        "ada NOT ada",
        "-ada +ada",
        "ada'; DROP TABLE documents; --",
        "ada\0engine",
        "((ada",
        "corpus : people ada",
        "ada " * 5000,
        "a" * 100_000 + " ada",
    ],
)
def test_query_syntax_is_plain_text(index, query):
    hits = index.search(query, 10)
    assert "Ada Lovelace" in titles(hits) or query.startswith("aa")


def test_no_query_raises(index):
    rng = random.Random(0)
    pieces = ['"', "'", "*", "(", ")", ":", "^", "-", "+", "{", "}", "\\", "\0", " ", "AND", "OR", "NOT", "NEAR", "ada"]
    for _ in range(300):
        index.search("".join(rng.choices(pieces, k=rng.randint(1, 12))), 3, corpus=rng.choice(["", '"*(', "people"]))
    # Every sort of letter, also those younger than the tokenizer's tables.
    for start in range(0, sys.maxunicode, 997):
        index.search(" ".join(map(chr, range(start, start + 20))), 1)


def test_ties_keep_the_order_of_building(tmp_path):
    documents = [Document(f"title {i}", "same words") for i in range(30)]
    SearchIndex.build(tmp_path / "i.index", documents)
    with SearchIndex(tmp_path / "i.index") as index:
        assert titles(index.search("words", 10)) == [f"title {i}" for i in range(10)]


def test_words_of_a_large_share_of_the_passages_are_passed_over_unless_there_are_no_others(tmp_path, monkeypatch):
    documents = [Document("", f"the of number{i % 7}") for i in range(40)] + [Document("", "the the the quiet")]
    SearchIndex.build(tmp_path / "i", documents)
    with SearchIndex(tmp_path / "i") as index:
        assert len(index.search("the quiet", 50)) == 41  # a small index spares nothing
        monkeypatch.setattr(search_index, "_COMMON_MIN", 20)
    with SearchIndex(tmp_path / "i") as index:
        assert [hit.text for hit in index.search("the quiet", 50)] == ["the the the quiet"]
        assert len(index.search("the of", 50)) == 41


def test_of_a_long_query_the_rarest_words_count(tmp_path):
    SearchIndex.build(tmp_path / "i", [Document("", " ".join(f"w{i}" for i in range(n))) for n in range(1, 60)])
    with SearchIndex(tmp_path / "i") as index:
        query = " ".join(f"w{i}" for i in range(60))  # w58 stands in one text, w0 in all
        assert len(index.search(query, 100)) == search_index._MAX_TERMS


def test_threads_share_one_index(index):
    queries = ["ada", "engine", "北京", "coffee", ""] * 20
    expected = [index.search(query, 3) for query in queries]
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda query: index.search(query, 3), queries)) == expected


def test_callers_are_served_in_the_order_of_coming():
    turns, served = search_index.Turns(1), []

    def call(number):
        with turns:
            served.append(number)

    with turns:
        threads = [threading.Thread(target=call, args=(number,)) for number in range(8)]
        for number, thread in enumerate(threads):
            thread.start()
            while turns.n_waiting <= number:
                time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert served == list(range(8)) and turns.n_free == 1


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
def test_who_may_not_write_may_search():
    script = """
        import os, sys
        from arft_jax.tools.search_index import SearchIndex
        os.chdir(sys.argv[1])
        os.setgid(65534), os.setuid(65534)
        try:
            open("i.index/new", "w")
        except PermissionError:
            print(SearchIndex("i.index").search("coffee", 1)[0].title)
    """
    with tempfile.TemporaryDirectory() as name:  # not pytest's own, which none but root may enter
        folder = pathlib.Path(name)
        folder.chmod(0o755)
        SearchIndex.build(folder / "i.index", DOCUMENTS)
        before = {file: file.stat().st_mtime_ns for file in (folder / "i.index").iterdir()}
        command = [sys.executable, "-c", textwrap.dedent(script), name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.stdout == "Café Zürich\n", done.stderr
        assert {file: file.stat().st_mtime_ns for file in (folder / "i.index").iterdir()} == before


def test_a_failed_build_leaves_the_old_index_and_no_rubbish(tmp_path):
    path = tmp_path / "i.index"
    SearchIndex.build(path, [Document("old", "fox")])

    def broken():
        yield Document("new", "fox")
        raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        SearchIndex.build(path, broken())
    assert os.listdir(tmp_path) == ["i.index"]
    with SearchIndex(path) as index:
        assert titles(index.search("fox", 5)) == ["old"]
        SearchIndex.build(path, [Document("new", "fox")])  # an open reader keeps what it opened
        assert titles(index.search("fox", 5)) == ["old"]
    with SearchIndex(path) as index:
        assert titles(index.search("fox", 5)) == ["new"]
    assert os.listdir(tmp_path) == ["i.index"]


def test_a_killed_build_leaves_nothing_under_the_name_and_the_next_starts_again(tmp_path):
    script = """
        import os, signal, sys
        from arft_jax.tools.search_index import Document, SearchIndex
        def documents():
            for i in range(20_000):
                yield Document(f"title {i}", f"{i % 997} words " * 40)
            os.kill(os.getpid(), signal.SIGKILL)
        SearchIndex.build(sys.argv[1], documents(), memory_mb=16)
    """
    path = tmp_path / "i.index"
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script), path], capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert os.listdir(tmp_path) == ["i.index.building"] and len(os.listdir(tmp_path / "i.index.building")) > 3
    with pytest.raises(FileNotFoundError):
        SearchIndex(path)
    for left in (tmp_path / "i.index.building" / "left", tmp_path / "i.index.old"):  # as other endings leave them
        left.mkdir()
        (left / "file").write_text("")
    SearchIndex.build(path, DOCUMENTS)
    assert os.listdir(tmp_path) == ["i.index"]
    assert not (path / "left").exists()
    assert not [name for name in os.listdir(path) if name.endswith(".lock")]
    with SearchIndex(path) as index:
        assert index.n_documents == len(DOCUMENTS) and titles(index.search("coffee", 5)) == ["Café Zürich"]


def test_two_builders_of_one_name_take_turns(tmp_path):
    inside, overlaps = [], []

    def documents(name):
        inside.append(name)
        for i in range(3):
            overlaps.append(len(inside) > 1)
            time.sleep(0.02)
            yield Document(name, f"fox {i}")
        inside.remove(name)

    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        builds = [threads.submit(SearchIndex.build, tmp_path / "i", documents(name)) for name in "ab"]
        assert [build.result() for build in builds] == [3, 3]
    assert not any(overlaps) and os.listdir(tmp_path) == ["i"]


def test_nothing_but_an_index_is_replaced(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("photos", "file"):
        with pytest.raises(ValueError, match=f"may replace nothing but an index: .*{name} is something else"):
            SearchIndex.build(tmp_path / name, DOCUMENTS)
    assert (tmp_path / "photos" / "a.txt").read_text() == (tmp_path / "file").read_text() == "mine"
    with pytest.raises(ValueError, match="the folder of an index must exist: got .*none"):
        SearchIndex.build(tmp_path / "none" / "i", DOCUMENTS)


def test_parts_do_not_change_the_hits(tmp_path):
    rng = random.Random(1)
    words = [f"w{int(rng.paretovariate(0.6)) % 3000}" for _ in range(5000)]
    ones = (f"one{i}" for i in range(10**9))  # words of their own fill the writer's memory fast
    documents = [
        Document("", " ".join([*rng.choices(words, k=60), *(next(ones) for _ in range(40))]), id=str(i))
        for i in range(8000)
    ]
    SearchIndex.build(tmp_path / "whole", documents)
    SearchIndex.build(tmp_path / "parts", documents, memory_mb=16)
    with SearchIndex(tmp_path / "whole") as whole, SearchIndex(tmp_path / "parts") as parts:
        assert whole.n_segments == 1 < parts.n_segments
        n_clear = 0
        for _ in range(50):
            query = " ".join(rng.choices(words, k=6))
            one, other = whole.search(query, 10), parts.search(query, 10)
            # The engine adds up in float32 in an order of its own: the last digit may turn.
            assert [hit.score for hit in other] == pytest.approx([hit.score for hit in one], abs=2e-4)
            clear = {hit.source for hit in one if hit.score > one[-1].score + 3e-4}
            assert clear <= {hit.source for hit in other}
            n_clear += len(clear)
        assert n_clear > 200


def test_ties_over_several_parts_keep_the_order_of_building(tmp_path):
    ones = (f"one{i}" for i in range(10**9))
    fat = [Document("", " ".join(next(ones) for _ in range(300))) for _ in range(800)]
    thin = [Document("", "thin")] * 4000  # so that the last part holds most documents and is looked at first
    documents = [*fat, *thin]
    for i in range(0, len(documents), 50):
        documents[i] = Document("", "tied phrase", id=str(i))
    SearchIndex.build(tmp_path / "i", documents, memory_mb=16)
    with SearchIndex(tmp_path / "i") as index:
        assert index.n_segments > 1
        for top_k in (1, 20):
            assert [hit.source for hit in index.search("phrase", top_k)] == [str(50 * i) for i in range(top_k)]


def test_odd_documents_are_taken(tmp_path):
    SearchIndex.build(tmp_path / "i.index", [Document("", ""), Document("nul\0 fox", "lone \ud800", "c\ud800")])
    with SearchIndex(tmp_path / "i.index") as index:
        assert [hit.text for hit in index.search("fox", 5, corpus="c\ud800")] == ["lone ?"]
    SearchIndex.build(tmp_path / "empty.index", [])
    with SearchIndex(tmp_path / "empty.index") as index:
        assert index.search("fox", 5) == []


def test_ids_come_back_as_the_source(tmp_path):
    SearchIndex.build(tmp_path / "i", [Document("a", "fox", "", "p:17"), Document("b", "fox fox")])
    with SearchIndex(tmp_path / "i") as index:
        assert {hit.title: hit.source for hit in index.search("fox", 5)} == {"a": "p:17", "b": ""}


def test_missing_foreign_and_damaged_indices_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no search index at .*none: build it"):
        SearchIndex(tmp_path / "none")
    (tmp_path / "text").write_text("not an index")
    (tmp_path / "void").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "index.json").write_text('{"kind": "else"}')
    for name in ("text", "void", "other"):
        with pytest.raises(ValueError, match=f"{name} is no search index"):
            SearchIndex(tmp_path / name)
    for name in ("old", "cut", "less"):
        SearchIndex.build(tmp_path / name, DOCUMENTS)
    header = tmp_path / "old" / "index.json"
    header.write_text(header.read_text().replace('"version": 2', '"version": 1'))
    with pytest.raises(ValueError, match="old must have version 2 of the search index: got 1; rebuild it"):
        SearchIndex(tmp_path / "old")
    header = tmp_path / "less" / "index.json"
    header.write_text(header.read_text().replace('"n_documents": 6', '"n_documents": 7'))
    with pytest.raises(ValueError, match="less must hold 7 passages: got 6"):
        SearchIndex(tmp_path / "less")
    for file in pathlib.Path(tmp_path / "cut").glob("*.idx"):
        file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(ValueError, match="cut is a damaged search index"):
        SearchIndex(tmp_path / "cut")


def test_wrong_arguments_are_named(index, tmp_path):
    with pytest.raises(ValueError, match="top_k must be at least 1: got 0"):
        index.search("ada", 0)
    with pytest.raises(ValueError, match="memory_mb must be in 16 .. 4000: got 1"):
        SearchIndex.build("never", [], memory_mb=1)
    SearchIndex.build(tmp_path / "closed", [Document("", "Ada")])
    closed = SearchIndex(tmp_path / "closed")
    closed.close()
    with pytest.raises(ValueError, match="the search index is closed"):
        closed.search("ada", 1)


def test_a_passage_of_accents_without_end_is_indexed_in_linear_time_and_found(tmp_path):
    """To bring 100,000 marks into order took ten seconds; a letter keeps thirty of them."""
    marks = "\u0301\u0316"
    for row in (marks, "\uff9e\u0301", "\u0f73"):
        started = time.thread_time()
        documents = [Document("", f"fox e{row * (100_000 // len(row))} den"), Document("", "cafe\u0301 \uff76\uff9e")]
        SearchIndex.build(tmp_path / "i", documents, 16)
        assert time.thread_time() - started < 2.0
        with SearchIndex(tmp_path / "i") as index:
            assert [len(index.search(word, 2)) for word in ("fox", "den", "caf\u00e9", "\u30ac")] == [1, 1, 1, 1]
