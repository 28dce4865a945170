"""The stop automaton against plain string search."""

import time

import numpy as np
import pytest

from arft_jax.sampling.stops import build_stop_table
from arft_jax.tools.bundled import paper_syntax

N_STREAMS, N_TOKENS = 20_000, 24


def vocabulary(rng, stops, n_random=600):
    """A byte-pair-like vocabulary in which tags are split and merged in every way."""
    tokens = [b""] * 3 + [bytes([b]) for b in range(256)]
    for stop in stops:
        tag = stop.encode()
        tokens += [tag[i:j] for i in range(len(tag)) for j in range(i + 1, len(tag) + 1)]
        tokens += [
            left + tag[i:] + right for i in range(len(tag)) for left in (b"", b" ", b"</") for right in (b"\n", b".<")
        ]
        tokens += [b"x" + tag[:i] for i in range(1, len(tag))]
        tokens += [a.encode() + b + c.encode() for a in stops for b in (b"", b"<", b"</") for c in stops]
    alphabet = np.frombuffer("".join(stops).encode() + b"</>< \n" * 3, np.uint8)
    tokens += [rng.choice(alphabet, rng.integers(2, 9)).tobytes() for _ in range(n_random)]
    return tokens


def oracle(stream, stops):
    """(index of the stop that is complete first, after how many tokens), or (-1, len)."""
    text = b""
    for count, token in enumerate(stream, 1):
        if not token:
            text = b""
            continue
        text += token
        ends = [(text.find(s) + len(s), i) for i, s in enumerate(stops) if s in text]
        if ends:
            return min(ends)[1], count
    return -1, len(stream)


def run(table, streams):
    """The same for int[N_STREAMS, N_TOKENS] token streams, by gathers alone."""
    state = np.zeros(len(streams), np.int64)
    count = np.full(len(streams), streams.shape[1])
    for place in range(streams.shape[1]):
        before = table.hit_of[state] >= 0
        state = table.next_state[state, streams[:, place]].astype(np.int64)
        count = np.where(~before & (table.hit_of[state] >= 0), place + 1, count)
    return table.hit_of[state], count


@pytest.mark.parametrize(
    "stops",
    [
        paper_syntax().stops,
        ("ab", "abab", "ba", "bb"),  # one inside another, one the end of another
        ("aab", "ab", "aaab"),  # two end at one byte: the first listed
        ("。</终>", "</ans>"),  # several bytes a character
    ],
)
def test_automaton_equals_plain_string_search(stops):
    rng = np.random.default_rng(0)
    tokens = vocabulary(rng, stops)
    table = build_stop_table(tokens, stops)
    # half of the streams from the pieces of the tags, so that completions across tokens are common
    single = {bytes([b]) for s in stops for b in s.encode()}
    pieces = [i for i, t in enumerate(tokens) if t in single or (len(t) > 1 and any(t in s.encode() for s in stops))]
    streams = rng.integers(0, len(tokens), (N_STREAMS, N_TOKENS))
    streams[::2] = rng.choice(pieces, (N_STREAMS // 2, N_TOKENS))
    # and a quarter with a tag spelt out in random cuts
    lookup = {t: i for i, t in enumerate(tokens)}
    for row in streams[1::4]:
        tag, place = stops[rng.integers(len(stops))].encode(), int(rng.integers(0, 12))
        while tag and place < N_TOKENS:
            cut = int(rng.integers(1, len(tag) + 1))
            row[place], tag, place = lookup[tag[:cut]], tag[cut:], place + 1
    hit, count = run(table, streams)
    encoded = [s.encode() for s in stops]
    want = [oracle([tokens[i] for i in row], encoded) for row in streams]
    np.testing.assert_array_equal(hit, [w[0] for w in want])
    np.testing.assert_array_equal(count, [w[1] for w in want])
    assert (hit >= 0).mean() > 0.2  # the test sees stops
    assert set(hit.tolist()) - {-1} != set()


def test_hand_value():
    table = build_stop_table([b"a", b"b", b"ab", b"xa", b""], ("ab",))
    assert table.next_state.tolist() == [[1, 0, 2, 1, 0], [1, 2, 2, 1, 0], [2, 2, 2, 2, 2]]
    assert table.hit_of.tolist() == [-1, -1, 0] and table.n_states == 3
    assert table.next_state.dtype == np.uint8


def test_control_token_starts_the_text_anew_but_leaves_a_hit():
    table = build_stop_table([b"</ans", b"wer>", b""], ("</answer>",))
    state = table.next_state[0, 0]
    assert table.hit_of[table.next_state[state, 1]] == 0
    assert table.next_state[state, 2] == 0
    hit = table.next_state[state, 1]
    assert table.next_state[hit, 2] == hit


def test_first_stop_in_a_token_wins_over_a_later_one():
    table = build_stop_table([b"</code></answer>"], ("</answer>", "</code>"))
    assert table.hit_of[table.next_state[0, 0]] == 1


def test_protocol_stops_need_about_30_states():
    table = build_stop_table([b"x"], paper_syntax().stops)
    assert table.n_states == 30  # 1 root + 2 of "</" + 7 + 8 + 5 + 7


def test_a_full_vocabulary_takes_seconds():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 12, 152_000)
    data = rng.integers(32, 127, lengths.sum()).astype(np.uint8).tobytes()
    starts = np.cumsum(lengths) - lengths
    tokens = [data[s : s + n] for s, n in zip(starts, lengths, strict=True)]
    begin = time.perf_counter()
    table = build_stop_table(tokens, paper_syntax().stops)
    assert table.next_state.shape == (30, 152_000)
    assert time.perf_counter() - begin < 10


def test_many_states_widen_the_table():
    stop = "".join(chr(97 + i % 26) for i in range(300))
    table = build_stop_table([stop.encode(), b"a"], (stop,))
    assert table.next_state.dtype == np.int16 and table.hit_of[table.next_state[0, 0]] == 0


def test_bad_stops_are_errors():
    for tokens, stops in (([b"a"], ()), ([b"a"], ("x", "")), ([], ("x",))):
        with pytest.raises(ValueError, match="stops must be non-empty strings over a vocabulary"):
            build_stop_table(tokens, stops)
