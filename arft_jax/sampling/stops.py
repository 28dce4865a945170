"""Stop strings as an automaton over the vocabulary, exact for every tokenisation.

``</search>`` is ordinary text to a byte-pair vocabulary: its pieces differ with what stands around it, and the
last ``>`` may be merged with what follows. So bytes are matched, not token ids: the Aho-Corasick automaton of the
stops (Aho and Corasick 1975, "Efficient string matching", algorithms 2-3) is run over the bytes of every token
from every state, once, on the host; the device then needs one gather a step. Departure:

1. A state in which a stop is complete is absorbing: the first match wins, whatever the rest of the token holds.
"""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class StopTable(NamedTuple):
    """The automaton, ready for the device.

    Args:
      next_state: uint8 or int16[n_states, V]; ``next_state[state, token]``. State 0 is the start.
      n_states: rows of the table.
      hit_of: int32[n_states]; index of the stop that is complete in this state, -1 where none is.
    """

    next_state: np.ndarray
    n_states: int
    hit_of: np.ndarray


def _trie(stops: Sequence[bytes]) -> tuple[list[dict[int, int]], list[int]]:
    """Children of each node, and the stop that ends in it (the first listed; -1: none)."""
    children: list[dict[int, int]] = [{}]
    hit_of = [-1]
    for index, stop in enumerate(stops):
        node = 0
        for byte in stop:
            if byte not in children[node]:
                children[node][byte] = len(children)
                children.append({})
                hit_of.append(-1)
            node = children[node][byte]
        hit_of[node] = index if hit_of[node] < 0 else hit_of[node]
    return children, hit_of


def _byte_table(stops: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Transitions int64[n_states, 256] of the automaton, its hits absorbing, and int32[n_states] hit_of."""
    children, hit_of = _trie(stops)
    table = np.zeros((len(children), 256), np.int64)
    fail = [0] * len(children)
    queue = deque()
    for byte, child in children[0].items():
        table[0, byte] = child
        queue.append(child)
    while queue:  # breadth first: the failure state is nearer the root, its row is complete
        node = queue.popleft()
        shorter = hit_of[fail[node]]
        if shorter >= 0 and (hit_of[node] < 0 or shorter < hit_of[node]):
            hit_of[node] = shorter
        table[node] = table[fail[node]]
        for byte, child in children[node].items():
            fail[child] = int(table[fail[node], byte])
            table[node, byte] = child
            queue.append(child)
    hits = np.asarray(hit_of, np.int32)
    absorbing = np.flatnonzero(hits >= 0)
    table[absorbing] = absorbing[:, None]
    return table, hits


def build_stop_table(token_bytes: Sequence[bytes], stops: Sequence[str]) -> StopTable:
    """Where each token leads from each state.

    Worked, stops ("ab",), tokens [a, b, ab, xa]: states 0 (nothing), 1 ("a"), 2 (hit); next_state =
    [[1, 0, 2, 1], [1, 2, 2, 1], [2, 2, 2, 2]], hit_of = [-1, -1, 0].

    Args:
      token_bytes: bytes of each of the V tokens; ``b""`` for a control token, which starts the text again (state 0).
      stops: strings that end a turn. The one whose last byte comes first wins; where two end at the same byte, the
        first listed.

    Returns:
      the table; a stop completed anywhere inside a token leads to that stop's absorbing state.

    Raises:
      ValueError: no token, no stop, an empty stop, or more than 32767 states.
    """
    encoded = [stop.encode() for stop in stops]
    if not token_bytes or not encoded or not all(encoded):
        raise ValueError(
            f"stops must be non-empty strings over a vocabulary: got {tuple(stops)!r} and V={len(token_bytes)}"
        )
    table, hit_of = _byte_table(encoded)
    n_states = len(table)
    if n_states > 32767:
        raise ValueError(f"stops must need at most 32767 states: got {n_states}")
    table = table.astype(np.int16)
    lengths = np.fromiter(map(len, token_bytes), np.int64, len(token_bytes))
    flat = np.frombuffer(b"".join(token_bytes), np.uint8)
    starts = np.cumsum(lengths) - lengths
    order = np.argsort(-lengths, kind="stable")  # longest first: tokens still running are a prefix
    state = np.repeat(np.arange(n_states, dtype=np.int16)[:, None], len(token_bytes), axis=1)
    running_at = len(token_bytes) - np.searchsorted(lengths[order][::-1], np.arange(lengths.max()), side="right")
    for place, n_running in enumerate(running_at):
        here = flat[starts[order[:n_running]] + place]
        state[:, :n_running] = table[state[:, :n_running], here[None, :]]
    next_state = np.empty_like(state)
    next_state[:, order] = state
    control = np.flatnonzero(lengths == 0)
    next_state[np.ix_(hit_of < 0, control)] = 0
    if n_states <= 256:
        next_state = next_state.astype(np.uint8)
    return StopTable(next_state, n_states, hit_of)
