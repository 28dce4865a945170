"""One rollout in the making: which row is in which slot, and what each of them waits for.

A round admits groups to free slots, takes in what the tools returned, feeds it, dispatches a segment and reads the one
before it. The engine owns the device state; a session is the host's side of it. A session may pause, its rows frozen in
their slots, and go on later with other weights.
"""

import concurrent.futures
import dataclasses
from collections import deque
from typing import Any

import jax
import numpy as np
from absl import logging

from arft_jax import protocol
from arft_jax.data import chat
from arft_jax.rollout import trace
from arft_jax.rollout.prefill import Feeder
from arft_jax.rollout.rerender import rerendered
from arft_jax.rollout.row import Feed, Row
from arft_jax.rollout.trace import RolloutCosts
from arft_jax.steps.sampler import DecodeReport
from arft_jax.steps.state import BUDGET, FREE, RUNNING, STOPPED
from arft_jax.trajectory import Observation, Status, ToolStatus, Trajectory
from arft_jax.words import CONTEXTS


@dataclasses.dataclass
class Group:
    """The rows of one request: ``left`` are not finished.

    Args:
      request: what to roll out.
      segment: its prompt.
      key: uint32[2], of its rows.
      rows: finished trajectories by row.
      left: rows that are not finished.
      n_begun: rows that were given a slot.
      version: of the weights under which its rows began; None: they have not.
    """

    request: Any
    segment: chat.Segment
    key: np.ndarray
    rows: list[Trajectory | None]
    left: int
    n_begun: int = 0
    version: int | None = None


class Scheduler:
    """Groups under way: who is in which slot, what waits for what.

    Args:
      engine: owner of the state and the programs.
      toolbox: serves the actions.
      temperature: 0 is greedy.
      max_turns: policy turns of a trajectory.
      on_finish: called with each trajectory as it ends.
      context: ``append``: an observation stands behind the turn that asked for it. ``rerender``: each turn has a prompt
        of its own; a trajectory is then its last prompt and turn, earlier turns being texts without a span.

    Raises:
      ValueError: ``rerender`` with a temperature: a token's key follows from its place, which comes again in each turn.
    """

    def __init__(self, engine, toolbox, temperature: float, max_turns: int, on_finish, context: str = "append"):
        if context not in CONTEXTS:
            raise ValueError(f"context must be append or rerender: got {context!r} (config.rollout.context)")
        if context == "rerender" and temperature > 0:
            raise ValueError(
                f"temperature must be 0 where context is rerender: got {temperature} (config.rollout.context)"
            )
        self.context = context
        self.engine, self.toolbox, self.temperature = engine, toolbox, temperature
        self.max_turns, self._on_finish = max_turns, on_finish
        self.params, self.version = None, 0
        self.groups: dict[int, Group] = {}  # in the order of their begin
        self._n_begun = 0
        self.queue: deque[int] = deque()
        self.free: list[int] = []
        self.rows: dict[int, Row] = {}
        self.running: set[int] = set()  # as far as the host has read
        self.waiting: dict[concurrent.futures.Future, int] = {}
        self.feeds: deque[Feed] = deque()
        self.forks: list[tuple[int, list[int]]] = []
        self.unread: deque[tuple[int, DecodeReport]] = deque()  # segments by number
        self.costs = RolloutCosts()
        self._keys = np.zeros((engine.limits.n_slots, 2), np.uint32)
        self._keys_put: jax.Array | None = None  # None: they have changed since they were
        self._dispatched = False

    # ------------------------------------------------------------ groups in, out

    def begin(self, requests, rng) -> None:
        """Queues requests behind those that are there.

        Raises:
          ValueError: a prompt that does not fit.
        """
        if not requests:
            return
        common = np.asarray(jax.device_get(jax.random.key_data(rng)))
        segments = [self._prompt(request) for request in requests]
        for request, segment in zip(requests, segments, strict=True):
            key, n = common if request.rng is None else request.rng, request.n_rows
            self.groups[self._n_begun] = Group(request, segment, np.asarray(key, np.uint32), [None] * n, n)
            self.queue.append(self._n_begun)
            self._n_begun += 1

    @property
    def n_done(self) -> int:
        """Groups of which every row is finished."""
        return sum(group.left == 0 for group in self.groups.values())

    def ready(self, n_groups: int, oldest: int) -> bool:
        """Whether so many groups are finished and, of those that began at version ``oldest`` or before, all."""
        due = (g for g in self.groups.values() if g.version is not None and g.version <= oldest)
        return self.n_done >= n_groups and all(group.left == 0 for group in due)

    def take(self, n_groups: int, oldest: int = -1) -> list[Group]:
        """Takes finished groups out: those of version ``oldest`` or before, then those that began first; in order."""
        done = [i for i, group in self.groups.items() if group.left == 0]
        chosen = sorted(done, key=lambda i: (self.groups[i].version > oldest, i))[:n_groups]
        return [self.groups.pop(i) for i in sorted(chosen)]

    # ------------------------------------------------------------- going, standing

    def resume(self, params, version: int, rebuild: bool) -> None:
        """Rows that stood still run again, under these weights."""
        engine = self.engine
        self.params, self.version, self.costs = params, version, RolloutCosts()
        self._feeder = Feeder(engine, params, self.rows, self.costs)
        held = engine.held | set(self.rows)
        self.free = [slot for slot in reversed(range(engine.limits.n_slots)) if slot not in held]
        if not self.rows:
            return
        if rebuild:
            self._feeder.rebuild()
        self._set_status(self.running)
        for slot, row in self.rows.items():
            row.live_from = 0
            self._mark([slot], trace.DECODE if slot in self.running else trace.PAUSED)

    def round(self) -> None:
        """Brings every row as far as it can go without waiting, and the running ones on by a segment."""
        self.admit()
        self.serve()
        self.feed()
        with self.costs.waiting("decode_s"):
            self.decode()
            self.collect()

    def pause(self) -> None:
        """Reads what is on its way; rows that are left then stand still, whoever else uses the engine."""
        while self.unread:
            self._read(*self.unread.popleft())
        if self.rows:
            self._set_status(())
        self.params = self._feeder = None  # the next step brings its own; a copy of these must not outlive this one

    def _set_status(self, running) -> None:
        """The host's word on who runs, put where the state's own lies: no program is traced again."""
        state = self.engine.state
        status = np.full(len(self._keys), FREE, np.int32)
        status[list(running)] = RUNNING
        self.engine.state = state._replace(status=jax.device_put(status, state.status.sharding))

    def _mark(self, slots, state: str) -> None:
        if self.engine.timeline is not None:
            for slot in slots:
                self.engine.timeline.mark(slot, state)

    def _prompt(self, request) -> chat.Segment:
        limits, name = self.engine.limits, request.task.id
        n_slots = limits.n_slots - len(self.engine.held - set(self.rows))
        if min(request.n_rows, n_slots) < 1:
            raise ValueError(
                f"a request must have a row, and a slot to run in: got {request.n_rows} rows, {n_slots} slots that are "
                "not held (config.rollout.n_slots)"
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
        """Gives free slots to waiting rows, in their order: one prefill a group, the other rows forked.

        A group need not begin at once: its later rows take slots as they come free, and the prompt from a row of theirs
        that is still there. Only where none is left is it prefilled again.
        """
        while self.queue and self.free:
            i = self.queue[0]
            group = self.groups[i]
            group.version = self.version if group.version is None else group.version
            source = self._source(i)
            first, n = group.n_begun, min(len(self.free), group.request.n_rows - group.n_begun)
            slots = [self.free.pop() for _ in range(n)]
            group.n_begun += n
            self._keys[slots], self._keys_put = group.key, None
            for slot, row in zip(slots, range(first, first + n), strict=True):
                self.rows[slot] = Row(group.request.task, group.request.number, row, i, slot)
                feed = self.engine.inject(self.rows[slot], group.segment)
                if source is None:
                    source = slot
                    self.feeds.append(feed)
            if targets := [slot for slot in slots if slot != source]:
                self.forks.append((source, targets))
            if group.n_begun == group.request.n_rows:
                self.queue.popleft()

    def _source(self, group: int) -> int | None:
        """A slot that begins with the group's prompt; where a context is rerendered, only before the second turn."""
        for slot, row in self.rows.items():
            if row.request == group and (self.context == "append" or not row.turns):
                return slot
        return None

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
            self._observe(self.rows[self.waiting.pop(future)], _answer(future))

    def _observe(self, row: Row, observation) -> None:
        observation = row.attach(observation)
        if observation.status == ToolStatus.INFRA:
            return self._finish(row, Status.INFRA)
        engine, anew = self.engine, self.context == "rerender"
        if anew:
            segment = engine.prompt(rerendered(row.task, row.turns, engine.can_show))
        else:
            segment = engine.observation(observation)
        n_images, n_pixels, length = (0, 0, 0) if anew else (row.n_images, row.n_pixels, row.length)
        n_images, n_pixels = n_images + len(segment.images), n_pixels + engine.pixels(segment)
        if segment.images and self._over_image_budget(n_images, n_pixels):
            return self._finish(row, Status.IMAGES)
        if length + len(segment.tokens) + 1 > engine.limits.max_tokens:
            return self._finish(row, Status.TOKENS)  # a whole observation or none
        if anew:
            row.restart()
        self.feeds.append(self.engine.inject(row, segment))

    # ------------------------------------------------------------ device calls

    def feed(self) -> None:
        """Encodes new images, advances the fed slots to their ends, then forks."""
        while self.feeds:
            wave = self._feeder.take_wave(self.feeds)
            slots = [feed.slot for feed in wave]
            self._mark(slots, trace.EXTEND)
            self._feeder.feed(wave)
            self._let_run(slots)
        for source, targets in self.forks:
            self._mark(targets, trace.EXTEND)
            self._feeder.fork(source, targets)
            self._let_run(targets)
        self.forks.clear()

    def _let_run(self, slots: list[int]) -> None:
        if self.engine.timeline is not None:
            jax.block_until_ready(self.engine.state.length)
        self._mark(slots, trace.DECODE)
        self.running.update(slots)
        for slot in slots:
            self.rows[slot].live_from = self.costs.n_decodes

    def decode(self) -> None:
        """Dispatches one segment, unless every row must have reached its limit in those that were not read yet."""
        engine = self.engine
        live = [self.rows[slot] for slot in self.running if self.rows[slot].bound < self.rows[slot].limit]
        if not live:
            return
        for row in live:
            row.bound = min(row.bound + engine.sampler.decode_steps, row.limit)
        if self._keys_put is None:
            self._keys_put = engine.put(self._keys.copy())
        engine.state, report = engine.sampler.decode(
            self.params,
            engine.state,
            engine.rules,
            self._keys_put,
            self.temperature,
            columns=engine.columns_for(max(row.bound for row in live)),
        )
        self.unread.append((self.costs.n_decodes, report))
        self.costs.n_decodes += 1
        self._dispatched = True

    # --------------------------------------------------------------- slots out

    def collect(self) -> None:
        """Reads the segments before the one just dispatched; that one too where a row must reach its limit in it."""
        ending = any(self.rows[slot].bound >= self.rows[slot].limit for slot in self.running)
        keep = int(self.engine.overlap and self._dispatched and not ending)
        self._dispatched = False
        while len(self.unread) > keep:
            self._read(*self.unread.popleft())

    def _read(self, number: int, report: DecodeReport) -> None:
        """Takes in what a segment sampled; parses the turns that stopped, sends tool calls out, finishes rows."""
        with self.costs.waiting("device_wait_s"):
            status, code, length, tokens, logps = jax.device_get(report)
        for slot in sorted(self.running):
            row = self.rows[slot]
            if row.live_from > number:  # the report is of the slot before the row ran in it
                continue
            row.grow(tokens[slot], logps[slot], int(length[slot]), self.version)
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
            self._finish(row, Status.NO_ACTION if row.last_token[0] == eos else Status.MALFORMED)
        elif len(row.turns) >= self.max_turns:
            self._finish(row, Status.TURN_LIMIT)
        else:
            self._mark([row.slot], trace.PAUSED)
            future = self.toolbox.submit(row.task, action, tuple(row.bank), row.spent_s, row.session)
            self.waiting[future] = row.slot

    def _finish(self, row: Row, status: Status) -> None:
        self._mark([row.slot], trace.IDLE)
        trajectory = row.trajectory(status)
        group = self.groups[row.request]
        group.rows[row.row], group.left = trajectory, group.left - 1
        del self.rows[row.slot]
        self.free.append(row.slot)
        if self._on_finish is not None:
            self._on_finish(trajectory)


def _answer(future: concurrent.futures.Future) -> Observation:
    """What a tool returned; a call that was cancelled or raised, which none should, is an infrastructure failure."""
    if future.cancelled():
        return Observation("the call was cancelled", (), ToolStatus.INFRA)
    if (fault := future.exception()) is not None:
        logging.error("a tool call raised: %r", fault, exc_info=fault)
        return Observation(f"the call raised {type(fault).__name__}", (), ToolStatus.INFRA)
    return future.result()
