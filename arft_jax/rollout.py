"""The slot scheduler: fills slots, decodes, serves pauses, refills.

A group's prompt is prefilled once and forked to its rows. A row that calls a tool freezes in its slot,
cache kept, while the others decode and the tool runs on the host; its observation is fed behind the token
that stopped it. The next segment is dispatched before the last one is read, so that the device works while the host
parses, tokenises and makes patches. A trajectory depends on (rng, task number, row) alone: not on who shares the batch,
on pauses, or on its place in the queue.
"""

import concurrent.futures
import dataclasses
import time
from collections import deque
from collections.abc import Callable, Sequence

import jax
import numpy as np

from arft_jax import protocol, rollout_trace
from arft_jax.data import chat
from arft_jax.data.batch import VisionBucket
from arft_jax.data.patches import PatchStore
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.models.qwen2_5_vl import positions as mrope
from arft_jax.rollout_feed import Feeder, empty_extension
from arft_jax.rollout_row import Feed, Row, image_spans
from arft_jax.rollout_trace import Costs, Timeline
from arft_jax.sharding import Placement
from arft_jax.steps.sampler import Report, Rules, Sampler
from arft_jax.steps.state import BUDGET, FREE, STOPPED, SlotState
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
    max_images: int = 0  # of a trajectory, the prompt's included; 0: no limit
    max_image_pixels: int = 0  # of a trajectory's images together, as encoded; 0: no limit


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
      parse: what a turn's text asks for; None: the protocol.
      bucket_columns: decode and extend read the cache up to the next multiple of so many columns that holds their rows,
        so that short rows do not pay for long ones: one program a multiple, all compiled before the first rollout. 0:
        always the whole cache.
      overlap: the next segment is dispatched before the last one is read.
      timeline: records the states of every slot.
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
        *,
        parse: Callable[[str], protocol.Action] | None = None,
        bucket_columns: int = 0,
        overlap: bool = True,
        timeline: Timeline | None = None,
    ):
        if bucket_columns < 0:
            raise ValueError(f"bucket_columns must be at least 0: got {bucket_columns} (config.rollout.bucket_columns)")
        self.n_lanes, self._whole = (1, None) if placement is None else (placement.n_lanes, placement.whole)
        self.sampler, self.state, self.rules, self.limits = sampler, state, rules, limits
        self.tokenizer, self.patches, self.bucket, self.system = tokenizer, patches, bucket, system
        self.parse, self.bucket_columns, self.overlap, self.timeline = parse, bucket_columns, overlap, timeline
        self.costs = Costs()  # of the last run
        self._warm: set = set()

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

    def pixels(self, segment: chat.Segment) -> int:
        """Pixels of a segment's images as they are encoded."""
        return sum(int(np.prod(grid)) for grid in segment.grids) * self.bucket.patch**2

    def columns_for(self, length: int) -> int | None:
        """How much of the cache a call reads that reaches ``length``; None: all.

        Example: bucket_columns 128, max_tokens 320: 128 for 1 .. 128, 256 for 129 .. 256, 320 beyond.
        """
        size = self.bucket_columns
        return min(-(-length // size) * size, self.limits.max_tokens) if size else None

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
        row.n_images, row.n_pixels = row.n_images + len(spans), row.n_pixels + self.pixels(segment)
        row.limit = min(row.length + self.limits.max_turn_tokens, self.limits.max_tokens)
        row.bound = row.length
        return feed

    def warm_up(self, params, rng: jax.Array, temperature: float) -> None:
        """Compiles decode and extend for every number of columns, where there are several; changes no row."""
        if not self.bucket_columns:
            return
        for n in range(0, self.limits.max_tokens, self.bucket_columns):
            columns = self.columns_for(n + 1)
            if ("extend", columns) not in self._warm:
                nothing = self.put(empty_extension(self.limits))
                self.state = self.sampler.extend(params, self.state, nothing, columns=columns)
            if (temperature, columns) not in self._warm:  # no row runs: the loop ends at once
                self.state, _ = self.sampler.decode(params, self.state, self.rules, rng, temperature, columns=columns)
            self._warm |= {("extend", columns), (temperature, columns)}

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
        """Rolls out every request to its end; ``costs`` then holds its seconds and counts.

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
        temperature = float(temperature)
        max_turns = max_turns or self.limits.max_turns
        session = _Session(self, params, requests, toolbox, rng, temperature, max_turns, on_finish)
        if not session.done:
            self.warm_up(params, rng, temperature)
        begin, self.costs = time.perf_counter(), session.costs
        try:
            while not session.done:
                session.admit()
                session.serve()
                session.feed()
                with session.costs.waiting("segment_s"):
                    session.decode()
                    session.collect()
        except BaseException:  # rows were left running: the next run must not find them so, nor other shardings
            self.state = self.state._replace(status=self.state.status * FREE)
            raise
        self.costs.total_s = time.perf_counter() - begin
        if self.timeline is not None:
            self.timeline.end()
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
        self.running: set[int] = set()  # as far as the host has read
        self.waiting: dict[concurrent.futures.Future, int] = {}
        self.feeds: deque[Feed] = deque()
        self.forks: list[tuple[int, list[int]]] = []
        self.costs = Costs()
        self.unread: deque[tuple[int, Report]] = deque()  # segments by number
        self._feeder = Feeder(engine, params, self.rows, self.costs)
        self._dispatched = False

    @property
    def done(self) -> bool:
        return self.left == 0

    def _mark(self, slots, state: str) -> None:
        if self.engine.timeline is not None:
            for slot in slots:
                self.engine.timeline.mark(slot, state)

    def _prompt(self, request: Request) -> chat.Segment:
        limits, name = self.engine.limits, request.task.id
        if not 0 < request.n_rows <= limits.n_slots:
            raise ValueError(
                f"a request's rows must fit the slots: got {request.n_rows} rows, {limits.n_slots} slots "
                "(config.rollout.n_slots)"
            )
        segment = self.engine.prompt(request.task)
        if len(segment.tokens) + 1 > limits.max_tokens:
            raise ValueError(
                f"the prompt of task {name!r} must leave room for an answer: got {len(segment.tokens)} "
                f"tokens, max_tokens={limits.max_tokens} (config.rollout.max_tokens)"
            )
        n, pixels = len(segment.images), self.engine.pixels(segment)
        if self._over_image_budget(n, pixels):
            raise ValueError(
                f"the images of task {name!r} must fit a trajectory's budget: got {n} images of {pixels} px, at most "
                f"{limits.max_images} and {limits.max_image_pixels} px, 0 being no limit (config.rollout.max_images, "
                "config.rollout.max_image_pixels)"
            )
        return segment

    def _over_image_budget(self, n_images: int, n_pixels: int) -> bool:
        limits = self.engine.limits
        return 0 < limits.max_images < n_images or 0 < limits.max_image_pixels < n_pixels

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
        mode, timeout = concurrent.futures.FIRST_COMPLETED, 0
        if not self.running and not self.feeds and not self.unread:
            timeout = None
        with self.costs.waiting("tool_wait_s"):
            ready = concurrent.futures.wait(self.waiting, timeout=timeout, return_when=mode).done
        for future in ready:
            self._observe(self.rows[self.waiting.pop(future)], future.result())

    def _observe(self, row: Row, observation) -> None:
        observation = row.attach(observation)
        if observation.status == ToolStatus.INFRA:
            return self._finish(row, Status.INFRA)
        segment = self.engine.observation(observation)
        n_images, n_pixels = row.n_images + len(segment.images), row.n_pixels + self.engine.pixels(segment)
        if segment.images and self._over_image_budget(n_images, n_pixels):
            return self._finish(row, Status.IMAGES)
        if row.length + len(segment.tokens) + 1 > self.engine.limits.max_tokens:
            return self._finish(row, Status.TOKENS)  # a whole observation or none
        self.feeds.append(self.engine.inject(row, segment))

    # ------------------------------------------------------------ device calls

    def feed(self) -> None:
        """Encodes new images, advances the fed slots to their ends, then forks."""
        while self.feeds:
            wave = self._feeder.take_wave(self.feeds)
            slots = [feed.slot for feed in wave]
            self._mark(slots, rollout_trace.EXTEND)
            self._feeder.feed(wave)
            self._let_run(slots)
        for source, targets in self.forks:
            self._mark(targets, rollout_trace.EXTEND)
            self._feeder.fork(source, targets)
            self._let_run(targets)
        self.forks.clear()

    def _let_run(self, slots: list[int]) -> None:
        if self.engine.timeline is not None:
            jax.block_until_ready(self.engine.state.length)
        self._mark(slots, rollout_trace.DECODE)
        self.running.update(slots)
        for slot in slots:
            self.rows[slot].live_from = self.costs.n_segments

    def decode(self) -> None:
        """Dispatches one segment, unless every row must have reached its limit in those that were not read yet."""
        engine = self.engine
        live = [self.rows[slot] for slot in self.running if self.rows[slot].bound < self.rows[slot].limit]
        if not live:
            return
        for row in live:
            row.bound = min(row.bound + engine.sampler.decode_steps, row.limit)
        engine.state, report = engine.sampler.decode(
            self.params,
            engine.state,
            engine.rules,
            self.rng,
            self.temperature,
            columns=engine.columns_for(max(row.bound for row in live)),
        )
        self.unread.append((self.costs.n_segments, report))
        self.costs.n_segments += 1
        self._dispatched = True

    # --------------------------------------------------------------- slots out

    def collect(self) -> None:
        """Reads the segments before the one just dispatched; that one too where a row must reach its limit in it."""
        ending = any(self.rows[slot].bound >= self.rows[slot].limit for slot in self.running)
        keep = int(self.engine.overlap and self._dispatched and not ending)
        self._dispatched = False
        while len(self.unread) > keep:
            self._read(*self.unread.popleft())

    def _read(self, number: int, report: Report) -> None:
        """Takes in what a segment sampled; parses the turns that stopped, sends tool calls out, finishes rows."""
        with self.costs.waiting("device_wait_s"):
            status, code, length, tokens, logps = jax.device_get(report)
        for slot in sorted(self.running):
            row = self.rows[slot]
            if row.live_from > number:  # the report is of the slot before the row ran in it
                continue
            row.grow(tokens[slot], logps[slot], int(length[slot]))
            if status[slot] == STOPPED:
                self.running.discard(slot)
                row.end_turn()
                self._act(row, int(code[slot]))

    def _act(self, row: Row, code: int) -> None:
        eos, limits = self.engine.tokenizer.eos_id, self.engine.limits
        action = row.read_turn(self.engine.tokenizer, eos, self.engine.parse)
        self.costs.n_sampled += row.turns[-1].end - row.turns[-1].start
        if isinstance(action, protocol.Answer):
            self._finish(row, Status.ANSWERED)
        elif code == BUDGET and isinstance(action, protocol.Malformed):
            self._finish(row, Status.TOKENS if row.length >= limits.max_tokens else Status.TURN_TOKENS)
        elif isinstance(action, protocol.Malformed):
            self._finish(row, Status.MALFORMED)
        elif len(row.turns) >= self.max_turns:
            self._finish(row, Status.TURN_LIMIT)
        else:
            self._mark([row.slot], rollout_trace.PAUSED)
            self.waiting[self.toolbox.submit(row.task, action, row.image)] = row.slot

    def _finish(self, row: Row, status: Status) -> None:
        self._mark([row.slot], rollout_trace.IDLE)
        trajectory = row.trajectory(status)
        self.results[row.request][row.row] = trajectory
        del self.rows[row.slot]
        self.free.append(row.slot)
        self.left -= 1
        if self._on_finish is not None:
            self._on_finish(trajectory)
