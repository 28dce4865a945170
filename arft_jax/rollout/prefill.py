"""Segments on their way into slots: images encoded once, chunks extended, prompts forked.

Every call is dispatched and none is waited for. Slots are served as a queue: a chunk of each of the first
``extend_rows`` feeds a call; a feed that is through makes room for the next.
"""

import dataclasses
import itertools
from collections import deque
from collections.abc import Mapping

import jax
import numpy as np

from arft_jax.data.batch import fill_chunk, pack_chunks
from arft_jax.rollout.renderer import Renderer
from arft_jax.rollout.row import Feed, Row
from arft_jax.rollout.slots import SlotMachine
from arft_jax.rollout.trace import RolloutCosts
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

    def advance(self, n: int) -> None:
        self.at += n


class Feeder:
    """Brings rows to where they decode; knows which image's features stand in which rows of the slots' features.

    Args:
      slots: the device state and the programs.
      renderer: gives the patches of images.
      params: the policy.
      rows: by slot; read when a feed is through.
      costs: counts the calls.
    """

    def __init__(self, slots: SlotMachine, renderer: Renderer, params, rows: Mapping[int, Row], costs: RolloutCosts):
        self._slots, self._renderer, self._params, self._costs = slots, renderer, params, costs
        self.rows = rows
        self._feature_rows: dict[str, int] = {}  # image -> row of its first feature
        self._next_feature_row = 0

    def take_wave(self, feeds: "deque[Feed]") -> list[Feed]:
        """As many feeds as the feature rows can serve at once, every image given its rows."""
        n_features = self._slots.limits.n_features
        wave, need = [], 0
        while feeds:
            more = sum(span.n for span in feeds[0].spans)
            if more > n_features:
                raise ValueError(
                    f"the images of one turn must fit the feature rows: got {more} image tokens, "
                    f"n_features={n_features} (config.rollout.n_features)"
                )
            if need + more > n_features:
                break
            need += more
            wave.append(feeds.popleft())
        if self._next_feature_row + need > n_features:
            self._feature_rows, self._next_feature_row = {}, 0
        return wave

    def feed(self, wave: list[Feed]) -> None:
        """Encodes a wave's images, then feeds its slots to their ends."""
        self._encode(wave)
        limits = self._slots.limits
        jobs = deque(_Job(feed, feed.stream(self._feature_rows)) for feed in wave)
        active: list[_Job] = []
        while jobs or active:
            while jobs and len(active) < limits.extend_rows:
                active.append(jobs.popleft())
            end = max(job.feed.first_column + min(job.at + limits.extend_chunk, len(job.stream[0])) for job in active)
            self._slots.extend(self._params, self._extension(active), end)
            self._costs.count("n_extends")
            for job in active:
                job.advance(limits.extend_chunk)
            active = [job for job in active if job.left > 0]

    def _encode(self, wave: list[Feed]) -> None:
        """Encodes the images that have no feature rows yet, each once."""
        slots, bucket, new = self._slots, self._renderer.bucket, {}
        for feed in wave:
            for span, image in zip(feed.spans, feed.segment.images, strict=True):
                if span.sha256 not in self._feature_rows:
                    self._feature_rows[span.sha256] = self._next_feature_row
                    self._next_feature_row += span.n
                    new[span.sha256] = (self._renderer.patches.get(image), span.n)
        shas = list(new)
        chunks = pack_chunks([new[sha][0][1] for sha in shas], bucket)
        for k in range(0, len(chunks), slots.n_lanes):
            members = [[shas[i] for i in chunk] for chunk in chunks[k : k + slots.n_lanes]]
            members += [[]] * (slots.n_lanes - len(members))
            filled = [fill_chunk([new[sha][0] for sha in part], bucket) for part in members]
            rows = np.full((slots.n_lanes, bucket.n_features), slots.limits.n_features, np.int32)
            for lane, part in enumerate(members):
                targets = [self._feature_rows[sha] + i for sha in part for i in range(new[sha][1])]
                rows[lane, : len(targets)] = targets
            patches, layout = jax.tree.map(lambda *lanes: np.stack(lanes), *filled)
            slots.encode(self._params, patches, layout, rows.reshape(-1))
            self._costs.count("n_encodes")

    def _extension(self, jobs: list[_Job]) -> Extension:
        limits, ext = self._slots.limits, self._slots.empty_extension()
        for i, job in enumerate(jobs):
            tokens, positions, index = job.stream
            n = min(limits.extend_chunk, job.left)
            row, part = self.rows[job.feed.slot], slice(job.at, job.at + n)
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
        """Computes the cache of every row again: images, prompt, turns and observations, from the rows' records.

        Each row is fed by itself, a group's prompt as often as it has rows.
        """
        n_features = self._slots.limits.n_features
        for pieces in itertools.zip_longest(*(row.pieces(n_features) for row in self.rows.values())):
            feeds = deque(piece for piece in pieces if piece is not None)
            while feeds:
                self.feed(self.take_wave(feeds))

    def fork(self, source: int, targets: list[int]) -> None:
        """Copies the prompt of a slot, whatever stands behind it by now, into others of its group."""
        width = self._slots.fork_rows
        for k in range(0, len(targets), width):
            part = targets[k : k + width]
            first = self.rows[part[0]]  # rows that have not begun differ in their number alone
            begin = np.array([first.length, first.next_position, first.limit], np.int32)
            self._slots.fork(source, part, [self.rows[slot].row for slot in part], begin)
            self._costs.count("n_forks")
