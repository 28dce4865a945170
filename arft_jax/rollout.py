"""The slot scheduler: fills slots, decodes, serves pauses, refills.

A group's prompt is prefilled once and forked to its rows. A row that calls a tool freezes in its slot,
cache kept, while the others decode and the tool runs on the host; its observation is fed behind the token
that stopped it. A trajectory depends on (rng, task number, row) alone: not on who shares the batch, on
pauses, or on its place in the queue.
"""

import concurrent.futures
import dataclasses
from collections import deque
from collections.abc import Callable, Sequence

import jax
import numpy as np

from arft_jax import protocol
from arft_jax.data import chat
from arft_jax.data.batch import VisionBucket, fill_chunk, pack_chunks
from arft_jax.data.patches import PatchStore
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.models.qwen2_5_vl import positions as mrope
from arft_jax.rollout_row import Feed, Row, image_spans
from arft_jax.sharding import Placement
from arft_jax.steps.sampler import Extension, Rules, Sampler
from arft_jax.steps.state import BUDGET, STOPPED, SlotState
from arft_jax.tools.toolbox import Toolbox
from arft_jax.trajectory import Status, Task, ToolStatus, Trajectory


@dataclasses.dataclass(frozen=True)
class Limits:
    """Sizes and budgets of a rollout; see config.rollout for the units."""

    n_slots: int
    group_size: int
    max_turns: int
    max_turn_tokens: int
    max_tokens: int
    extend_rows: int
    extend_chunk: int
    n_features: int


@dataclasses.dataclass(frozen=True)
class Request:
    """One task to roll out: ``number`` seeds its rows ``0 .. n_rows-1`` together with the run's rng."""

    task: Task
    number: int
    n_rows: int


class Engine:
    """Owns the device state and the compiled programs; :meth:`run` may be called any number of times.

    Args:
      sampler: the compiled programs.
      state: all slots free.
      rules: stop automaton and banned tokens, on the device.
      limits: sizes and budgets.
      tokenizer, patches: text and images to model input.
      bucket: sizes of one encode call.
      system: system prompt by task kind.
      placement: the mesh over which params and state are split; None: one device.
    """

    def __init__(
        self,
        sampler: Sampler,
        state: SlotState,
        rules: Rules,
        limits: Limits,
        tokenizer: Tokenizer,
        patches: PatchStore,
        bucket: VisionBucket,
        system: dict[str, str],
        placement: Placement | None = None,
    ):
        self.n_lanes, self._whole = (1, None) if placement is None else (placement.n_lanes, placement.whole)
        self.sampler, self.state, self.rules, self.limits = sampler, state, rules, limits
        self.tokenizer, self.patches, self.bucket, self.system = tokenizer, patches, bucket, system

    def put(self, arrays):
        """Host arrays on every device."""
        return jax.device_put(arrays, self._whole)

    def prompt(self, task: Task) -> chat.Segment:
        """The task's prompt as one segment of the token stream."""
        return chat.prompt_segment(
            self.tokenizer, self.patches.processor, self.system[task.kind], task.question, task.images
        )

    def observation(self, observation) -> chat.Segment:
        """An observation, in its chat frame, as one segment of the token stream."""
        return chat.observation_segment(self.tokenizer, self.patches.processor, observation)

    def inject(self, row: Row, segment: chat.Segment) -> Feed:
        """Appends a segment to a row's record; returns what the device must be fed.

        M-RoPE positions of a segment are those of a fresh sequence, shifted: every segment begins with text.
        """
        spans = image_spans(segment)
        pos, after = mrope.mrope_positions(
            segment.tokens, segment.grids, self.tokenizer.image_pad_id, self.bucket.merge
        )
        pos, after = pos + np.int32(row.next_position), after + row.next_position
        feed = Feed(row.slot, segment, spans, pos, row.length, row.last_token if row.length else None)
        row.inject(segment, spans, pos, after)
        return feed

    def run(
        self,
        params,
        requests: Sequence[Request],
        toolbox: Toolbox,
        *,
        rng: jax.Array,
        temperature: float,
        max_turns: int | None = None,
        on_finish: Callable[[Trajectory], None] | None = None,
    ) -> list[list[Trajectory]]:
        """Rolls out every request to its end.

        Args:
          params: the policy.
          requests: tasks in order.
          toolbox: serves the actions.
          rng: PRNG key of this run.
          temperature: 0 is greedy.
          max_turns: overrides the limits' (evaluation may allow more than training).
          on_finish: called with each trajectory as it ends.

        Returns:
          For each request its trajectories by row.

        Raises:
          ValueError: a prompt that does not fit, before any compute.
        """
        session = _Session(
            self, params, requests, toolbox, rng, float(temperature), max_turns or self.limits.max_turns, on_finish
        )
        while not session.done:
            session.admit()
            session.serve()
            session.feed()
            session.decode()
            session.collect()
        return session.results


class _Session:
    """One call of Engine.run: who is in which slot, what waits for what."""

    def __init__(self, engine: Engine, params, requests, toolbox, rng, temperature, max_turns: int, on_finish):
        self._on_finish = on_finish
        self.engine, self.params, self.toolbox = engine, params, toolbox
        self.rng, self.temperature, self.max_turns = rng, temperature, max_turns
        self.results: list[list] = [[None] * request.n_rows for request in requests]
        self.left = sum(request.n_rows for request in requests)
        self.queue = deque((i, request, self._prompt(request)) for i, request in enumerate(requests))
        self.free = list(range(engine.limits.n_slots))[::-1]
        self.rows: dict[int, Row] = {}
        self.running: set[int] = set()
        self.waiting: dict[concurrent.futures.Future, int] = {}
        self.feeds: list[Feed] = []
        self.forks: list[tuple[int, list[int]]] = []
        self.bank: dict[str, int] = {}  # image -> first feature row
        self.bank_next = 0

    @property
    def done(self) -> bool:
        return self.left == 0

    def _prompt(self, request: Request) -> chat.Segment:
        limits = self.engine.limits
        if not 0 < request.n_rows <= limits.n_slots:
            raise ValueError(
                f"a request's rows must fit the slots: got {request.n_rows} rows, {limits.n_slots} slots "
                "(config.rollout.n_slots)"
            )
        segment = self.engine.prompt(request.task)
        if len(segment.tokens) + 1 > limits.max_tokens:
            raise ValueError(
                f"the prompt of task {request.task.id!r} must leave room for an answer: got {len(segment.tokens)} "
                f"tokens, max_tokens={limits.max_tokens} (config.rollout.max_tokens)"
            )
        return segment

    # ---------------------------------------------------------------- slots in

    def admit(self) -> None:
        """Gives free slots to waiting groups: one prefill a group, the other rows forked."""
        while self.queue and len(self.free) >= self.queue[0][1].n_rows:
            i, request, segment = self.queue.popleft()
            slots = [self.free.pop() for _ in range(request.n_rows)]
            for n, slot in enumerate(slots):
                self.rows[slot] = Row(request.task, request.number, n, i, slot)
                feed = self.engine.inject(self.rows[slot], segment)
                if n == 0:
                    self.feeds.append(feed)
            if slots[1:]:
                self.forks.append((slots[0], slots[1:]))

    def serve(self) -> None:
        """Takes in what the tools returned; waits for one only where nothing else can go on."""
        if not self.waiting:
            return
        idle = not self.running and not self.feeds
        mode = concurrent.futures.FIRST_COMPLETED
        ready = concurrent.futures.wait(self.waiting, timeout=None if idle else 0, return_when=mode).done
        for future in ready:
            self._observe(self.rows[self.waiting.pop(future)], future.result())

    def _observe(self, row: Row, observation) -> None:
        row.attach(observation)
        if observation.status == ToolStatus.INFRA:
            return self._finish(row, Status.INFRA)
        segment = self.engine.observation(observation)
        if row.length + len(segment.tokens) + 1 > self.engine.limits.max_tokens:
            return self._finish(row, Status.TOKENS)  # a whole observation or none
        self.feeds.append(self.engine.inject(row, segment))

    # ------------------------------------------------------------ device calls

    def feed(self) -> None:
        """Encodes new images, then advances the fed slots chunk by chunk, then forks."""
        while self.feeds:
            wave = self._take_wave()
            self._encode(wave)
            for k in range(0, len(wave), self.engine.limits.extend_rows):
                self._extend(wave[k : k + self.engine.limits.extend_rows])
            self.running.update(feed.slot for feed in wave)
        for source, targets in self.forks:
            self._fork(source, targets)
        self.forks.clear()

    def _take_wave(self) -> list[Feed]:
        """As many feeds as the feature bank can serve at once, every image given its rows in the bank."""
        n_features = self.engine.limits.n_features
        wave, need = [], 0
        while self.feeds:
            more = sum(span.n for span in self.feeds[0].spans)
            if more > n_features:
                raise ValueError(
                    f"the images of one turn must fit the feature bank: got {more} image tokens, "
                    f"n_features={n_features} (config.rollout.n_features)"
                )
            if need + more > n_features:
                break
            need += more
            wave.append(self.feeds.pop(0))
        if self.bank_next + need > n_features:
            self.bank, self.bank_next = {}, 0
        return wave

    def _encode(self, wave: list[Feed]) -> None:
        """Encodes the images that the bank does not hold yet, each once."""
        engine, new = self.engine, {}
        for feed in wave:
            for span, image in zip(feed.spans, feed.segment.images, strict=True):
                if span.sha256 not in self.bank:
                    self.bank[span.sha256] = self.bank_next
                    self.bank_next += span.n
                    new[span.sha256] = (engine.patches.get(image), span.n)
        shas = list(new)
        chunks = pack_chunks([new[sha][0][1] for sha in shas], engine.bucket)
        for k in range(0, len(chunks), engine.n_lanes):
            members = [[shas[i] for i in chunk] for chunk in chunks[k : k + engine.n_lanes]]
            members += [[]] * (engine.n_lanes - len(members))
            filled = [fill_chunk([new[sha][0] for sha in part], engine.bucket) for part in members]
            rows = np.full((engine.n_lanes, engine.bucket.n_features), engine.limits.n_features, np.int32)
            for lane, part in enumerate(members):
                targets = [self.bank[sha] + i for sha in part for i in range(new[sha][1])]
                rows[lane, : len(targets)] = targets
            args = engine.put((*jax.tree.map(lambda *lanes: np.stack(lanes), *filled), rows.reshape(-1)))
            engine.state = engine.sampler.encode(self.params, engine.state, *args)

    def _extend(self, feeds: list[Feed]) -> None:
        """Feeds up to extend_rows slots to their ends; a slot with less to feed sits out the rest."""
        engine, limits = self.engine, self.engine.limits
        streams = [feed.stream(self.bank) for feed in feeds]
        n_chunks = max(-(-len(tokens) // limits.extend_chunk) for tokens, _, _ in streams)
        for c in range(n_chunks):
            ext = self._extension(feeds, streams, c * limits.extend_chunk)
            engine.state = engine.sampler.extend(self.params, engine.state, engine.put(ext))

    def _extension(self, feeds, streams, at: int) -> Extension:
        limits = self.engine.limits
        r, c = limits.extend_rows, limits.extend_chunk
        ext = Extension(
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
        for i, (feed, (tokens, pos, index)) in enumerate(zip(feeds, streams, strict=True)):
            n = min(c, len(tokens) - at)
            if n <= 0:
                continue
            row = self.rows[feed.slot]
            part = slice(at, at + n)
            ext.slots[i], ext.n[i], ext.start[i] = feed.slot, n, feed.first_column + at
            ext.tokens[i, :n], ext.positions[i, :, :n], ext.feature_index[i, :n] = (
                tokens[part],
                pos[:, part],
                index[part],
            )
            ext.final[i] = at + n == len(tokens)
            ext.next_position[i], ext.task[i], ext.row[i] = row.next_position, row.number, row.row
            ext.limit[i] = min(row.length + limits.max_turn_tokens, limits.max_tokens)
        return ext

    def _fork(self, source: int, targets: list[int]) -> None:
        limits = self.engine.limits
        width = max(limits.group_size - 1, 1)
        for k in range(0, len(targets), width):
            part = targets[k : k + width]
            slots, rows = np.full(width, limits.n_slots, np.int32), np.zeros(width, np.int32)
            slots[: len(part)], rows[: len(part)] = part, [self.rows[slot].row for slot in part]
            args = self.engine.put((np.int32(source), slots, rows))
            self.engine.state = self.engine.sampler.fork(self.engine.state, *args)
            self.running.update(part)

    def decode(self) -> None:
        """One segment; rows that stopped stand still."""
        if self.running:
            engine = self.engine
            engine.state = engine.sampler.decode(self.params, engine.state, engine.rules, self.rng, self.temperature)

    # --------------------------------------------------------------- slots out

    def collect(self) -> None:
        """Reads which rows stopped; parses their turns; sends tool calls out; finishes trajectories."""
        if not self.running:
            return
        state = self.engine.state
        status, code, length = jax.device_get((state.status, state.stop_code, state.length))
        stopped = sorted(slot for slot in self.running if status[slot] == STOPPED)
        if not stopped:
            return
        tokens, logps = jax.device_get((state.tokens, state.logps))
        for slot in stopped:
            self.running.discard(slot)
            row = self.rows[slot]
            row.sample(tokens[slot, row.length : length[slot]], logps[slot, row.length : length[slot]])
            self._act(row, int(code[slot]))

    def _act(self, row: Row, code: int) -> None:
        eos, limits = self.engine.tokenizer.eos_id, self.engine.limits
        action = row.read_turn(self.engine.tokenizer, eos)
        if isinstance(action, protocol.Answer):
            self._finish(row, Status.ANSWERED)
        elif code == BUDGET and isinstance(action, protocol.Malformed):
            self._finish(row, Status.TOKENS if row.length >= limits.max_tokens else Status.TURN_TOKENS)
        elif isinstance(action, protocol.Malformed):
            self._finish(row, Status.MALFORMED)
        elif len(row.turns) >= self.max_turns:
            self._finish(row, Status.TURN_LIMIT)
        else:
            self.waiting[self.toolbox.submit(row.task, action, row.image)] = row.slot

    def _finish(self, row: Row, status: Status) -> None:
        trajectory = row.trajectory(status)
        self.results[row.request][row.row] = trajectory
        del self.rows[row.slot]
        self.free.append(row.slot)
        self.left -= 1
        if self._on_finish is not None:
            self._on_finish(trajectory)
