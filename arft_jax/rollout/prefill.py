"""Segments on their way into slots: images encoded once, chunks extended, prompts forked.

Every call is dispatched and none is waited for. Slots are served as a queue: a chunk of each of the first
``extend_rows`` feeds a call; a feed that is through makes room for the next.
"""

import dataclasses
import itertools
from collections import deque

import jax
import numpy as np

from arft_jax.data.batch import fill_chunk, pack_chunks
from arft_jax.rollout.row import Feed, Row
from arft_jax.steps.sampler import Extension


@dataclasses.dataclass
class _Job:
    """A feed's stream and how far it is fed."""

    feed: Feed
    stream: tuple[np.ndarray, np.ndarray, np.ndarray]
    at: int = 0

    @property
    def left(self) -> int:
        return len(self.stream[0]) - self.at


class Feeder:
    """The feature bank of one rollout, and the device calls that bring rows to where they decode.

    Args:
      engine: owner of the state and the programs.
      params: the policy.
      rows: by slot; read when a feed is through.
      costs: counts the calls.
    """

    def __init__(self, engine, params, rows: dict[int, Row], costs):
        self._engine, self._params, self._rows, self._costs = engine, params, rows, costs
        self._bank: dict[str, int] = {}  # image -> first feature row
        self._bank_next = 0

    def take_wave(self, feeds: "deque[Feed]") -> list[Feed]:
        """As many feeds as the feature bank can serve at once, every image given its rows in the bank."""
        n_features = self._engine.limits.n_features
        wave, need = [], 0
        while feeds:
            more = sum(span.n for span in feeds[0].spans)
            if more > n_features:
                raise ValueError(
                    f"the images of one turn must fit the feature bank: got {more} image tokens, "
                    f"n_features={n_features} (config.rollout.n_features)"
                )
            if need + more > n_features:
                break
            need += more
            wave.append(feeds.popleft())
        if self._bank_next + need > n_features:
            self._bank, self._bank_next = {}, 0
        return wave

    def feed(self, wave: list[Feed]) -> None:
        """Encodes a wave's images, then feeds its slots to their ends."""
        self._encode(wave)
        limits = self._engine.limits
        jobs = deque(_Job(feed, feed.stream(self._bank)) for feed in wave)
        active: list[_Job] = []
        while jobs or active:
            while jobs and len(active) < limits.extend_rows:
                active.append(jobs.popleft())
            end = max(job.feed.first_column + min(job.at + limits.extend_chunk, len(job.stream[0])) for job in active)
            self._extend(self._extension(active), self._engine.columns_for(end))
            for job in active:
                job.at += limits.extend_chunk
            active = [job for job in active if job.left > 0]

    def _encode(self, wave: list[Feed]) -> None:
        """Encodes the images that the bank does not hold yet, each once."""
        engine, new = self._engine, {}
        for feed in wave:
            for span, image in zip(feed.spans, feed.segment.images, strict=True):
                if span.sha256 not in self._bank:
                    self._bank[span.sha256] = self._bank_next
                    self._bank_next += span.n
                    new[span.sha256] = (engine.patches.get(image), span.n)
        shas = list(new)
        chunks = pack_chunks([new[sha][0][1] for sha in shas], engine.bucket)
        for k in range(0, len(chunks), engine.n_lanes):
            members = [[shas[i] for i in chunk] for chunk in chunks[k : k + engine.n_lanes]]
            members += [[]] * (engine.n_lanes - len(members))
            filled = [fill_chunk([new[sha][0] for sha in part], engine.bucket) for part in members]
            rows = np.full((engine.n_lanes, engine.bucket.n_features), engine.limits.n_features, np.int32)
            for lane, part in enumerate(members):
                targets = [self._bank[sha] + i for sha in part for i in range(new[sha][1])]
                rows[lane, : len(targets)] = targets
            args = engine.put((*jax.tree.map(lambda *lanes: np.stack(lanes), *filled), rows.reshape(-1)))
            engine.state = engine.sampler.encode(self._params, engine.state, *args)
            self._costs.n_encodes += 1

    def _extend(self, ext: Extension, columns: int | None) -> None:
        engine = self._engine
        engine.state = engine.sampler.extend(self._params, engine.state, engine.put(ext), columns=columns)
        self._costs.n_extends += 1

    def _extension(self, jobs: list[_Job]) -> Extension:
        limits, ext = self._engine.limits, empty_extension(self._engine.limits)
        for i, job in enumerate(jobs):
            tokens, positions, index = job.stream
            n = min(limits.extend_chunk, job.left)
            row, part = self._rows[job.feed.slot], slice(job.at, job.at + n)
            ext.slots[i], ext.n[i], ext.start[i] = job.feed.slot, n, job.feed.first_column + job.at
            ext.tokens[i, :n], ext.positions[i, :, :n], ext.feature_index[i, :n] = (
                tokens[part],
                positions[:, part],
                index[part],
            )
            ext.final[i] = job.feed.runs and n == job.left
            ext.next_position[i], ext.task[i], ext.row[i] = row.next_position, row.number, row.row
            ext.limit[i] = row.limit
        return ext

    def rebuild(self) -> None:
        """Computes the cache of every row anew: images, prompt, turns and observations, from the rows' records.

        Each row is fed by itself, a group's prompt as often as it has rows.
        """
        limits = self._engine.limits
        for pieces in itertools.zip_longest(*(row.pieces(limits.n_features) for row in self._rows.values())):
            feeds = deque(piece for piece in pieces if piece is not None)
            while feeds:
                self.feed(self.take_wave(feeds))

    def fork(self, source: int, targets: list[int]) -> None:
        """Copies the prompt of a slot, whatever stands behind it by now, into others of its group."""
        engine, limits = self._engine, self._engine.limits
        width = max(limits.group_size - 1, 1)
        for k in range(0, len(targets), width):
            part = targets[k : k + width]
            slots, rows = np.full(width, limits.n_slots, np.int32), np.zeros(width, np.int32)
            slots[: len(part)], rows[: len(part)] = part, [self._rows[slot].row for slot in part]
            first = self._rows[part[0]]  # rows that have not begun differ in their number alone
            begin = np.array([first.length, first.next_position, first.limit], np.int32)
            engine.state = engine.sampler.fork(engine.state, *engine.put((np.int32(source), slots, rows, begin)))
            self._costs.n_forks += 1


def empty_extension(limits) -> Extension:
    """An extension of no row."""
    r, c = limits.extend_rows, limits.extend_chunk
    return Extension(
        slots=np.full(r, limits.n_slots, np.int32),
        tokens=np.zeros((r, c), np.int32),
        n=np.zeros(r, np.int32),
        start=np.zeros(r, np.int32),
        positions=np.zeros((r, 3, c), np.int32),
        feature_index=np.full((r, c), -1, np.int32),
        final=np.zeros(r, bool),
        next_position=np.zeros(r, np.int32),
        limit=np.zeros(r, np.int32),
        task=np.zeros(r, np.int32),
        row=np.zeros(r, np.int32),
    )
