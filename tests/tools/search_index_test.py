"""The full-text index: ranking, languages, filters, hostile queries, files."""

import concurrent.futures
import math
import os
import random
import sqlite3
import sys

import pytest

from arft_jax.tools.search_index import Document, SearchIndex, query_terms

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
    path = tmp_path_factory.mktemp("index") / "a #1?%20.db"
    assert SearchIndex.build(path, iter(DOCUMENTS)) == len(DOCUMENTS)
    with SearchIndex(path) as built:
        yield built


def titles(hits):
    return [hit.title for hit in hits]


def test_a_title_counts_more_than_a_text(index):
    assert titles(index.search("ada lovelace", 5)) == ["Ada Lovelace", "Charles Babbage"]
    assert titles(index.search("analytical engine", 5)) == ["Analytical Engine", "Ada Lovelace"]


def test_scores_fall_and_equal_the_bm25_formula(tmp_path):
    # FTS5: idf * f * 2.2 / (f + 1.2 * (0.25 + 0.75 * n / mean n)), idf = ln((N - df + 0.5) / (df + 0.5)).
    texts = ["red fox", "blue fox sky sky", "green", "grey", "white"]
    SearchIndex.build(tmp_path / "i.db", [Document("", text) for text in texts])
    lengths = [len(text.split()) + 1 for text in texts]  # one more: the corpus token
    mean = sum(lengths) / 5
    with SearchIndex(tmp_path / "i.db") as index:
        hits = index.search("red", 5)
    expected = math.log(4.5 / 1.5) * 2.2 / (1 + 1.2 * (0.25 + 0.75 * lengths[0] / mean))
    assert len(hits) == 1 and hits[0].score == pytest.approx(expected, rel=1e-6)


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
    SearchIndex.build(tmp_path / "i.db", documents)
    with SearchIndex(tmp_path / "i.db") as index:
        assert titles(index.search("words", 10)) == [f"title {i}" for i in range(10)]


def test_terms_are_unique_and_limited():
    assert query_terms("A b a 大小大") == ["a", "b", "大", "小", "大 小", "小 大"]
    assert len(query_terms(" ".join(map(str, range(500))))) == 64


def test_threads_share_one_index(index):
    queries = ["ada", "engine", "北京", "coffee", ""] * 20
    expected = [index.search(query, 3) for query in queries]
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda query: index.search(query, 3), queries)) == expected


def test_the_file_cannot_be_written_through_the_index(index):
    with index._connection() as db, pytest.raises(sqlite3.OperationalError):
        db.execute("DELETE FROM documents")


def test_a_failed_build_leaves_the_old_index_and_no_rubbish(tmp_path):
    path = tmp_path / "i.db"
    SearchIndex.build(path, [Document("old", "fox")])

    def broken():
        yield Document("new", "fox")
        raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        SearchIndex.build(path, broken())
    with SearchIndex(path) as index:
        assert titles(index.search("fox", 5)) == ["old"]
        SearchIndex.build(path, [Document("new", "fox")])  # an open reader keeps what it opened
        assert titles(index.search("fox", 5)) == ["old"]
    with SearchIndex(path) as index:
        assert titles(index.search("fox", 5)) == ["new"]
    assert os.listdir(tmp_path) == ["i.db"]


def test_the_same_documents_give_the_same_file(tmp_path):
    for name in ("a.db", "b.db"):
        SearchIndex.build(tmp_path / name, DOCUMENTS)
    assert (tmp_path / "a.db").read_bytes() == (tmp_path / "b.db").read_bytes()


def test_odd_documents_are_taken(tmp_path):
    SearchIndex.build(tmp_path / "i.db", [Document("", ""), Document("nul\0 fox", "lone \ud800", "c\ud800")])
    with SearchIndex(tmp_path / "i.db") as index:
        assert [hit.text for hit in index.search("fox", 5, corpus="c\ud800")] == ["lone ?"]
    SearchIndex.build(tmp_path / "empty.db", [])
    with SearchIndex(tmp_path / "empty.db") as index:
        assert index.search("fox", 5) == []


def test_missing_and_foreign_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no search index at .*none.db: build it"):
        SearchIndex(tmp_path / "none.db")
    (tmp_path / "text.db").write_text("not a database, but long enough to look like one" * 50)
    (tmp_path / "void.db").write_bytes(b"")
    db = sqlite3.connect(tmp_path / "other.db")
    db.execute("CREATE TABLE documents (a)")
    db.close()
    for name in ("text.db", "void.db", "other.db"):
        with pytest.raises(ValueError, match=f"{name} is no search index"):
            SearchIndex(tmp_path / name)


def test_wrong_arguments_are_named(index):
    with pytest.raises(ValueError, match="top_k must be at least 1: got 0"):
        index.search("ada", 0)
