"""From a corpus file to the index: both layouts, built once, again for another corpus, faults named by line number."""

import os

import pytest

from arft_jax.tools import search_corpus
from arft_jax.tools.search_corpus import corpus_index_path, index_corpus, read_corpus
from arft_jax.tools.search_index import SearchIndex


def test_both_layouts_of_a_line_are_read(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text(
        '{"id": 1, "title": "Red Star", "text": "A house.", "corpus": "w1"}\n'
        "\n"
        '{"id": "2", "contents": "\\"Blue Moon\\"\\nA tavern.\\nOpen late."}\n'
        '{"contents": "one line only 茶"}\n'
    )
    assert [(d.title, d.text, d.corpus) for d in read_corpus(path)] == [
        ("Red Star", "A house.", "w1"),
        ("Blue Moon", "A tavern.\nOpen late.", ""),
        ("", "one line only 茶", ""),
    ]


@pytest.mark.parametrize(
    "line, sentence",
    [
        ("{", "line 2 of .*corpus.jsonl must be a JSON object with text"),
        ("[]", "line 2 of .*corpus.jsonl must be"),
        ('{"title": "t"}', "line 2 of .*corpus.jsonl must be"),
        ('{"text": 7}', "line 2 of .*corpus.jsonl must be"),
        (r'{"text": "a\ud800"}', r"line 2 of .*'text' must hold no NUL and no lone surrogate: .*\(config.data.dir"),
        (r'{"contents": "\"a\u0000\"\nb"}', r"line 2 of .*'contents' must hold no NUL"),
        (r'{"text": "a", "id": "\udfff"}', r"line 2 of .*'id' must hold no NUL"),
    ],
)
def test_a_line_that_is_no_document_is_named(tmp_path, line, sentence):
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"text": "a"}\n' + line + "\n")
    with pytest.raises(ValueError, match=sentence):
        index_corpus(path, tmp_path / "i.index")
    assert os.listdir(tmp_path) == ["corpus.jsonl"]


def test_a_corpus_that_cannot_be_read_or_holds_nothing_is_refused(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(b'{"text": "\xff"}\n')
    with pytest.raises(ValueError, match="readable UTF-8 file: got .*corpus.jsonl"):
        list(read_corpus(path))
    path.write_text("\n")
    with pytest.raises(ValueError, match="must hold documents: got an empty .*corpus.jsonl"):
        index_corpus(path, tmp_path / "i.index")


def test_an_index_is_built_once_and_anew_for_another_corpus(tmp_path):
    path, index = tmp_path / "corpus.jsonl", tmp_path / "new" / "i.index"
    path.write_text('{"title": "Red Star", "text": "Ann"}\n')
    os.utime(path, (2000, 2000))
    assert [index_corpus(path, index), index_corpus(path, index)] == [True, False]
    with SearchIndex(index) as found:
        assert [hit.text for hit in found.search("red star", 2)] == ["Ann"]
    path.write_text('{"title": "Red Star", "text": "Bob"}\n')
    os.utime(path, (1000, 1000))  # copied with its own, older time
    assert [index_corpus(path, index), index_corpus(path, index)] == [True, False]
    with SearchIndex(index) as found:
        assert [hit.text for hit in found.search("red star", 2)] == ["Bob"]


def test_an_index_that_cannot_be_read_is_built_anew(tmp_path, monkeypatch):
    path, index = tmp_path / "corpus.jsonl", tmp_path / "i.index"
    path.write_text('{"title": "Red Star", "text": "Ann"}\n')
    assert [index_corpus(path, index), index_corpus(path, index)] == [True, False]

    def refuse(path):
        raise ValueError(f"{path} must have index version 9")

    monkeypatch.setattr(search_corpus.SearchIndex, "__init__", lambda self, path: refuse(path))
    assert index_corpus(path, index)


def test_the_index_lies_beside_its_corpus_or_elsewhere_where_that_cannot_be_written(tmp_path, monkeypatch):
    corpus = tmp_path / "mat_search" / "corpus.jsonl"
    corpus.parent.mkdir()
    assert corpus_index_path(corpus, tmp_path / "run") == tmp_path / "mat_search" / "corpus.index"
    monkeypatch.setattr(search_corpus.os, "access", lambda path, mode: False)
    assert corpus_index_path(corpus, tmp_path / "run") == tmp_path / "run" / "mat_search-corpus.index"
