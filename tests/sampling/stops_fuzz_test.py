"""The stop automaton over a vocabulary of Qwen2.5's size against ``bytes.find``."""

import numpy as np
import pytest

from arft_jax.sampling.stops import build_stop_table
from arft_jax.testing import stop_streams
from arft_jax.testing.stop_streams import LEFT, RIGHT, first_stop
from arft_jax.tools.bundled import paper_syntax

CHUNK, N_TOKENS = 20_000, 16
OTHER_STOPS = [
    ("ab", "abab", "ba", "bb"),  # one inside another, one the end of another
    ("aab", "ab", "aaab"),  # two end at one byte: the first listed
    ("b", "abc", "abcd"),  # the inner one is complete first
    ("。</终>", "</ans>"),  # several bytes a character
]


@pytest.fixture(scope="module")
def vocabulary():
    return stop_streams.make_vocabulary(paper_syntax().stops)


@pytest.fixture(scope="module")
def table(vocabulary):
    return build_stop_table(vocabulary.tokens, paper_syntax().stops)


def check(vocabulary, table, seed):
    """Compares one chunk of streams; returns what the search found: (stops [n], token counts [n], streams)."""
    streams = stop_streams.random_streams(np.random.default_rng(seed), vocabulary, CHUNK, N_TOKENS)
    hit, count = stop_streams.run_table(table, streams)
    want_hit, want_count = stop_streams.search_streams(vocabulary, streams)
    np.testing.assert_array_equal(hit, want_hit)
    np.testing.assert_array_equal(count, want_count)
    return want_hit, want_count, streams


def check_shares(vocabulary, hits, last_tokens):
    """Stops are neither rare nor certain; each stop, and every kind of last token, is common."""
    shares = np.bincount(hits + 1, minlength=len(vocabulary.stops) + 1) / len(hits)
    assert 0.2 < shares[0] < 0.6 and shares[1:].min() > 0.05, shares
    ends = [(vocabulary.tokens[token], vocabulary.stops[hit]) for hit, token in zip(hits, last_tokens, strict=True)]
    ends = [end for end, hit in zip(ends, hits, strict=True) if hit >= 0]
    whole = np.mean([stop in token for token, stop in ends])
    goes_on = np.mean([not stop.endswith(token) and not token.endswith(stop) for token, stop in ends])
    assert whole > 0.1 and goes_on > 0.3, (whole, goes_on)


def last_tokens(streams, count):
    return streams[np.arange(len(streams)), count - 1]


def test_the_vocabulary_is_one_that_byte_pair_merges_give(vocabulary):
    tokens = [token for token in vocabulary.tokens if token]
    known = set(tokens)
    assert len(vocabulary.tokens) == 151_936 and len(tokens) == len(known) == 151_643
    assert all(len(token) == 1 or token[:-1] in known for token in tokens)
    assert sum(any(stop in token for stop in vocabulary.stops) for token in tokens) > 4 * len(LEFT) * len(RIGHT)


def test_automaton_equals_string_search_on_20_000_streams(vocabulary, table):
    hits, count, streams = check(vocabulary, table, 0)
    check_shares(vocabulary, hits, last_tokens(streams, count))


@pytest.mark.slow
def test_automaton_equals_string_search_on_1_000_000_streams(vocabulary, table):
    checked = [check(vocabulary, table, seed) for seed in range(1, 1 + 1_000_000 // CHUNK)]
    hits = np.concatenate([hits for hits, _, _ in checked])
    assert len(hits) == 1_000_000
    check_shares(vocabulary, hits, np.concatenate([last_tokens(streams, count) for _, count, streams in checked]))


@pytest.mark.parametrize("stops", OTHER_STOPS, ids=str)
def test_overlapping_and_nested_stops_equal_string_search(stops):
    vocabulary = stop_streams.make_vocabulary(stops, 20_000)
    hits, _, _ = check(vocabulary, build_stop_table(vocabulary.tokens, stops), 0)
    possible = {first_stop(stop, vocabulary.stops)[1] for stop in vocabulary.stops}  # others hold an earlier one
    assert set(hits.tolist()) - {-1} == possible and (hits >= 0).mean() > 0.2


def test_every_split_of_every_stop_in_every_surrounding_is_found_at_its_last_token(vocabulary, table):
    for number, stop in enumerate(vocabulary.stops):
        streams, n_pieces = stop_streams.every_split(vocabulary, number)
        assert len(np.unique(streams, axis=0)) == len(streams) == 2 ** (len(stop) - 1) * len(LEFT) * len(RIGHT)
        hit, count = stop_streams.run_table(table, streams)
        assert (hit == number).all()
        np.testing.assert_array_equal(count, n_pieces)


def test_a_token_that_goes_on_behind_a_stop_still_ends_the_turn_there(vocabulary, table):
    holding = [(i, first_stop(token, vocabulary.stops)[1]) for i, token in enumerate(vocabulary.tokens)]
    ids, stops = np.array([pair for pair in holding if pair[1] >= 0]).T
    two = [i for i in ids if sum(stop in vocabulary.tokens[i] for stop in vocabulary.stops) > 1]
    assert len(ids) > 400 and len(two) > 100
    landed = table.hit_of[table.next_state[0, ids]]
    np.testing.assert_array_equal(landed, stops)
    absorbing = np.flatnonzero(table.hit_of >= 0)
    assert (table.next_state[absorbing] == absorbing[:, None]).all()


def texts_of_states(vocabulary, table):
    """The shortest text that leads to each state, byte by byte."""
    texts, queue = {0: b""}, [0]
    for state in queue:
        for byte in range(256):
            after = int(table.next_state[state, byte])
            if after not in texts:
                texts[after] = texts[state] + bytes([byte])
                queue.append(after)
    return texts


def check_transitions(vocabulary, table, ids):
    """From every state, every token of ``ids`` leads where the definition says."""
    texts = texts_of_states(vocabulary, table)
    assert len(texts) == table.n_states
    begun = {text: state for state, text in texts.items() if table.hit_of[state] < 0}
    longest = max(map(len, begun))
    assert all(any(stop.startswith(text) for stop in vocabulary.stops) for text in begun)
    for before, state in begun.items():
        for token, after in zip(ids, table.next_state[state, ids].tolist(), strict=True):
            text = before + vocabulary.tokens[token]
            hit = first_stop(text, vocabulary.stops)[1]
            if hit >= 0:
                assert table.hit_of[after] == hit, (before, vocabulary.tokens[token])
            elif vocabulary.tokens[token]:  # the longest end of the text that begins a stop
                ends = (text[at:] for at in range(max(len(text) - longest, 0), len(text) + 1))
                assert after == next(begun[end] for end in ends if end in begun), (before, vocabulary.tokens[token])
            else:
                assert after == 0


def test_transitions_are_those_of_the_definition(vocabulary, table):
    ids = np.random.default_rng(0).choice(len(vocabulary.tokens), 2_000, replace=False).tolist()
    check_transitions(vocabulary, table, ids)


@pytest.mark.slow
def test_every_transition_is_that_of_the_definition(vocabulary, table):
    """With this the automaton is exact for streams of any length, by induction over their tokens."""
    check_transitions(vocabulary, table, range(len(vocabulary.tokens)))
