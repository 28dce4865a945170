"""The synthetic passages: the same from the same seed, with the frequencies of text."""

import collections
import json

import numpy as np
import pytest

from arft_jax.tools import passages as passages_lib
from arft_jax.tools import search_bench
from arft_jax.tools.search_bench import Passages, word_of


def test_words_differ():
    words = {word_of(rank) for rank in range(20_000)}
    assert len(words) == 20_000 and all(word.isalpha() for word in words)


def test_a_seed_gives_the_same_passages_with_the_frequencies_of_text():
    one, other = (Passages(2500, seed, 100) for seed in (0, 1))
    passages = list(one)
    assert passages == list(one) != list(other)
    assert len(passages) == 2500 and [p.id for p in passages] == [str(i) for i in range(2500)]
    assert {len(p.text.split()) for p in passages} == {100} and {len(p.title.split()) for p in passages} == {4}
    found_in = collections.Counter(word for p in passages for word in {*p.title.split(), *p.text.split()})
    common = sum(n > 0.1 * 2500 for n in found_in.values())
    assert 70 < common < 110
    assert sum(n == 1 for n in found_in.values()) > len(found_in) / 2
    assert len(one.kept) == 100
    for row, ranks in one.kept.items():
        words = set(passages[row].text.split()) | set(passages[row].title.split())
        question = one.question(ranks, np.random.default_rng(0)).split()
        assert 5 < len(question) <= 10 and set(question) <= words
        rare = one.rare_words(ranks).split()
        assert len(set(rare)) == 5 and set(rare) <= words
        assert one.rare_in(ranks) == max(found_in[word] for word in rare) < 10  # of 2500


def test_the_index_is_built_from_a_file_of_the_passages(tmp_path, monkeypatch):
    """Known passages are found by their own rare words: all of them."""
    read, build = [], passages_lib.build_index

    def watch(paths, *args, **options):
        for path in paths:
            with open(path, encoding="utf-8") as f:
                read.extend(map(passages_lib.parse_json_line, f))
        return build(paths, *args, **options)

    monkeypatch.setattr(passages_lib, "build_index", watch)
    figures = search_bench.run(tmp_path / "a" / "index", n_passages=3000, n_questions=300, memory_mb=64)
    assert read == list(Passages(3000, 0, 300))
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["index"]  # the file is gone
    assert (figures["passages"], figures["questions"], figures["callers"]) == (3000, 300, 16)
    assert (figures["recall_at_1"], figures["recall_at_k"]) == (1.0, 1.0)
    assert figures["rare_in"] < 10
    assert 0 < figures["p50_ms"] <= figures["p99_ms"] <= figures["max_ms"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_known_passage_of_a_hundred_thousand_is_found_by_its_rare_words(tmp_path, capsys):
    figures = search_bench.run(tmp_path / "index", n_passages=100_000, n_questions=2000)
    with capsys.disabled():
        print("\n" + json.dumps(figures))
    assert figures["rare_in"] < 50  # of 100,000
    assert figures["recall_at_1"] == 1.0


def test_impossible_counts_are_named():
    with pytest.raises(ValueError, match="0 < n_kept <= n must hold: got n_kept=5, n=4"):
        Passages(4, 0, 5)
