"""The synthetic passages: the same from the same seed, with the frequencies of text."""

import collections

import numpy as np
import pytest

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
        assert max(found_in[word] for word in one.rare_words(ranks).split()) < 250


def test_impossible_counts_are_named():
    with pytest.raises(ValueError, match="0 < n_kept <= n must hold: got n_kept=5, n=4"):
        Passages(4, 0, 5)
