"""Token streams in which stop strings are split and merged in every way, and a plain string search over them.

The vocabulary is composed, not downloaded: 256 bytes, then strings of which each is an earlier one and a byte, so that
a sequence of byte-pair merges gives it. Its size and its padding are Qwen2.5's. It holds every piece of every stop,
alone and merged with what may stand before and behind it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from arft_jax.sampling.stops import StopTable

QWEN_SIZE = 151_936
N_CONTROL = 293  # 22 control tokens and the padding of the embedding
# what a stop's first and last piece may be merged with: nothing, text, tags begun, whole and cut characters
LEFT = (b"", b" ", b"\n", b">", b"x", b"<", b"</", "。".encode(), b"\xe3")
RIGHT = (b"", b" ", b"\n", b"\n\n", b"<", b"</", b".", b"</think>", "中".encode(), b"\xe4\xbd")
_VARIANTS = len(LEFT) * len(RIGHT)
_LETTERS = np.frombuffer(b"etaoinshrdlcumwfgypbvkETAOS", np.uint8)
_CODE = np.frombuffer(b"()[]{}=.,:;_'\"+-*/ \n\t#0123456789abcdefinprt", np.uint8)


class Vocabulary(NamedTuple):
    """What each of V ids writes, and where a piece of a stop is found.

    tokens: bytes of each id, ``b""`` for control ids. stops: in bytes. infixes int32[n]: ids of all pieces.
    pieces int32[n_stops, L, L + 1, n]: ids of ``stop[start : start + size]`` at [stop, start, size], with anything of
    LEFT where it is the first and of RIGHT where it is the last.
    """

    tokens: list[bytes]
    stops: tuple[bytes, ...]
    infixes: np.ndarray
    pieces: np.ndarray


def _tagged(stops: Sequence[bytes]) -> list[bytes]:
    """Every piece of every stop between anything of LEFT and of RIGHT, and every two stops run together."""
    infixes = sorted({s[i:j] for s in stops for i in range(len(s)) for j in range(i + 1, len(s) + 1)})
    found = [left + infix + right for infix in infixes for left in LEFT for right in RIGHT]
    return found + [a + joint + b for a in stops for joint in LEFT for b in stops]


def _words(rng: np.random.Generator, stops: Sequence[bytes], n: int) -> list[bytes]:
    """English-like, Chinese and code-like strings, and strings of the stops' own bytes; 2 to 12 characters."""
    tags = np.frombuffer(b"".join(stops) + b"</>< \n" * 3, np.uint8)
    words = []
    for size, kind in zip(rng.integers(2, 13, n), rng.integers(0, 4, n), strict=True):
        if kind == 1:
            words.append("".join(map(chr, rng.integers(0x4E00, 0x9FA5, size // 3 + 1))).encode())
        else:
            alphabet = _LETTERS if kind == 0 else _CODE if kind == 2 else tags
            words.append(alphabet[rng.integers(0, len(alphabet), size)].tobytes())
    return words


def make_vocabulary(stops: Sequence[str], size: int = QWEN_SIZE, seed: int = 0) -> Vocabulary:
    """Composes a byte-pair vocabulary around the stops.

    Args:
      stops: strings that end a turn.
      size: V.
      seed: of the words that fill it.

    Raises:
      ValueError: the stops' pieces alone need more than ``size``.
    """
    encoded = tuple(stop.encode() for stop in stops)
    rng, full = np.random.default_rng(seed), size - N_CONTROL
    ids = {bytes([byte]): byte for byte in range(256)}

    def add(strings: Sequence[bytes]) -> None:
        for string in strings:
            for end in range(2, len(string) + 1):  # its beginnings first: each is the one before and a byte
                if len(ids) < full:
                    ids.setdefault(string[:end], len(ids))

    tagged = _tagged(encoded)
    add(tagged)
    if not all(string in ids for string in tagged):
        raise ValueError(f"size must hold every piece of the stops: got {size}")
    while len(ids) < full:
        add(_words(rng, encoded, 4096))

    longest = max(map(len, encoded))
    pieces = np.zeros((len(encoded), longest, longest + 1, _VARIANTS), np.int32)
    for number, stop in enumerate(encoded):
        for start in range(len(stop)):
            for end in range(start + 1, len(stop) + 1):
                lefts, rights = LEFT if start == 0 else (b"",), RIGHT if end == len(stop) else (b"",)
                merged = [ids[left + stop[start:end] + right] for left in lefts for right in rights]
                pieces[number, start, end - start] = np.resize(merged, _VARIANTS)
    infixes = sorted({s[i:j] for s in encoded for i in range(len(s)) for j in range(i + 1, len(s) + 1)})
    infix_ids = np.array([ids[infix] for infix in infixes], np.int32)
    return Vocabulary(list(ids) + [b""] * N_CONTROL, encoded, infix_ids, pieces)


def random_streams(rng: np.random.Generator, vocabulary: Vocabulary, n_streams: int, n_tokens: int) -> np.ndarray:
    """int32[n_streams, n_tokens]: any tokens, loose pieces of stops, and stops spelt out.

    From a random place on a stop is written in pieces whose mean size is the stream's own; one piece in twelve is
    followed by something else, and soon by another stop.
    """
    shape, n_stops = (n_streams, n_tokens), len(vocabulary.stops)
    streams = rng.integers(0, len(vocabulary.tokens), shape, np.int32)
    loose = rng.random(shape, np.float32) < 0.3
    streams[loose] = vocabulary.infixes[rng.integers(0, len(vocabulary.infixes), np.count_nonzero(loose))]
    lengths = np.array([len(stop) for stop in vocabulary.stops])
    cut = rng.choice([0.1, 0.3, 0.5, 0.7, 0.9], n_streams)  # how likely a piece ends behind each byte
    stop, written = rng.integers(0, n_stops, n_streams), np.zeros(n_streams, np.int64)
    begin = rng.integers(0, n_tokens, n_streams)
    for place in range(n_tokens):
        rows = np.flatnonzero((begin <= place) & (written < lengths[stop]))
        which, start = stop[rows], written[rows]
        size = np.minimum(rng.geometric(cut[rows]), lengths[which] - start)
        streams[rows, place] = vocabulary.pieces[which, start, size, rng.integers(0, _VARIANTS, len(rows))]
        written[rows] += size
        broken = rows[rng.random(len(rows)) < 1 / 12]
        stop[broken], written[broken] = rng.integers(0, n_stops, len(broken)), 0
        begin[broken] = place + 1 + rng.integers(0, 3, len(broken))
    return streams


def every_split(vocabulary: Vocabulary, number: int) -> tuple[np.ndarray, np.ndarray]:
    """One stop in each of its 2^(L - 1) splits into pieces, with all of LEFT x RIGHT around it.

    Returns:
      streams int32[n, L], control tokens behind the stop; int64[n], the number of its pieces.
    """
    length, pieces = len(vocabulary.stops[number]), vocabulary.pieces[number]
    streams = np.full((2 ** (length - 1), _VARIANTS, length), len(vocabulary.tokens) - 1, np.int32)
    n_pieces = np.empty((2 ** (length - 1), _VARIANTS), np.int64)
    variants = np.arange(_VARIANTS)
    for split in range(2 ** (length - 1)):
        ends = [i + 1 for i in range(length - 1) if split >> i & 1] + [length]
        n_pieces[split] = len(ends)
        for place, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            # LEFT runs through the slow index and RIGHT through the fast one: every pair of them once
            shift = variants // len(RIGHT) if start == 0 and end < length else variants
            streams[split, :, place] = pieces[start, end - start, shift]
    return streams.reshape(-1, length), n_pieces.reshape(-1)


def run_table(table: StopTable, streams: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The automaton alone: (stop int32[n], -1: none; int64[n], after how many tokens; all of them where none)."""
    state = np.zeros(len(streams), table.next_state.dtype)
    count = np.full(len(streams), streams.shape[1])
    for place in range(streams.shape[1]):
        before = table.hit_of[state] >= 0
        state = table.next_state[state, streams[:, place]]
        count = np.where(~before & (table.hit_of[state] >= 0), place + 1, count)
    return table.hit_of[state], count


def first_stop(text: bytes, stops: Sequence[bytes]) -> tuple[int, int]:
    """(where it ends, which stop): the one that ends first, of two the first listed; (-1, -1) where there is none."""
    ends = [(at + len(stop), number) for number, stop in enumerate(stops) if (at := text.find(stop)) >= 0]
    return min(ends, default=(-1, -1))


def search_streams(vocabulary: Vocabulary, streams: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """:func:`run_table`'s answer by ``bytes.find`` over each stream's bytes.

    A control token is a byte that no UTF-8 text holds, so that no stop runs across it.
    """
    shown = [token or b"\xff" for token in vocabulary.tokens]
    lengths = np.fromiter(map(len, shown), np.int64, len(shown))
    texts = (b"".join(map(shown.__getitem__, row)) for row in streams.tolist())
    found = np.array([first_stop(text, vocabulary.stops) for text in texts])
    complete = np.cumsum(lengths[streams], axis=1) >= found[:, :1]
    count = np.where(found[:, 1] >= 0, np.argmax(complete, axis=1) + 1, streams.shape[1])
    return found[:, 1], count
