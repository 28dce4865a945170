"""One rollout in the making: which row is in which slot, and what each of them waits for.

A round admits groups to free slots, takes in what the tools returned, feeds it, dispatches a decode call and reads the
one before it. The slot machine owns the device state; a scheduler is the host's side of it. It may pause, its rows
frozen in their slots, and resume later with other weights.
"""

import concurrent.futures
from collections import deque
from collections.abc import Callable, Sequence

import jax
import numpy as np

from arft_jax.data import chat
from arft_jax.protocol import Malformed
from arft_jax.rollout import trace
from arft_jax.rollout.outcome import status_after
from arft_jax.rollout.prefill import Feeder
from arft_jax.rollout.renderer import Renderer
from arft_jax.rollout.request import Group, OnGroup, Request, RolloutLimits, check_prompt, check_rows
from arft_jax.rollout.rerender import rerendered
from arft_jax.rollout.row import Feed, Injection, Row
from arft_jax.rollout.slots import SlotMachine
from arft_jax.rollout.trace import RolloutCosts, Timeline
from arft_jax.steps.sampler import DecodeReport, RowSampling
from arft_jax.steps.state import BUDGET, NO_STOP, STOPPED
from arft_jax.tools.toolbox import Toolbox, observed, resolved
from arft_jax.trajectory import Observation, Status, ToolStatus, Trajectory
from arft_jax.words import CONTEXTS


class Scheduler:
    """Groups under way: who is in which slot, what waits for what.

    Args:
      slots: the device state and the programs.
      renderer: makes prompts and observations model input.
      limits: sizes and budgets.
      toolbox: serves the actions.
      temperature: 0 is greedy; None: each request has its own terms, sampling among them.
      held: slots of rows that are not this scheduler's and stand still.
      overlap: the next decode call is dispatched before the last one is read.
      on_finish: called with each trajectory as it ends.
      on_group: called with a group's number, counted in the order of :meth:`begin`, and its rows as soon as all of them
        have ended; a request that it returns takes the group's place and is queued. None: the group stays.
      watch: called with a row whose turn has grown; returns how many of its tokens to keep if it must end, else None.
      timeline: records the states of every slot.
      context: ``append``: an observation stands behind the turn that asked for it. ``rerender``: each turn has a prompt
        of its own; a trajectory is then its last prompt and turn, earlier turns being texts without a span.

    Raises:
      ValueError: ``rerender`` with a temperature: a token's key follows from its place, which comes again in each turn.
    """

    def __init__(
        self,
        slots: SlotMachine,
        renderer: Renderer,
        limits: RolloutLimits,
        toolbox: Toolbox,
        temperature: float | None,
        *,
        held: frozenset[int] = frozenset(),
        overlap: bool = True,
        on_finish: Callable[[Trajectory], None] | None = None,
        on_group: OnGroup | None = None,
        watch: Callable[[Row], int | None] | None = None,
        timeline: Timeline | None = None,
        context: str = "append",
    ):
        if context not in CONTEXTS:
            raise ValueError(f"context must be append or rerender: got {context!r} (config.rollout.context)")
        if context == "rerender" and temperature != 0:
            raise ValueError(
                f"temperature must be 0 where context is rerender: got {temperature} (config.rollout.context)"
            )
        self.slots, self.renderer, self.limits = slots, renderer, limits
        self.toolbox, self.temperature, self.context = toolbox, temperature, context
        self._held, self._overlap = held, overlap
        self._on_finish, self._on_group, self._watch, self._timeline = on_finish, on_group, watch, timeline
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
        self.unread: deque[tuple[int, DecodeReport]] = deque()  # decode calls by number
        self.costs = RolloutCosts()
        self._feeder: Feeder | None = None
        self._common = np.zeros(2, np.uint32)  # key of requests that have none of their own
        self._keys = np.zeros((limits.n_slots, 2), np.uint32)
        self._own = np.tile(np.array([[0.0], [1.0]], np.float32), (1, limits.n_slots))  # temperature, top_p by slot
        self._keys_put: jax.Array | None = None  # None: they have changed since they were
        self._how: float | RowSampling = 0.0  # they are sampled, as the device has it
        self.bell: concurrent.futures.Future | None = None
        self._dispatched = self._is_halted = False  # halted: a row has left its slot, and the device does not know

    # ------------------------------------------------------------ groups in, out

    def serve_with(self, toolbox: Toolbox, temperature: float) -> None:
        """From now on tool calls go to this toolbox, and turns are sampled at this temperature."""
        self.toolbox, self.temperature, self._keys_put = toolbox, temperature, None

    def hang_bell(self) -> None:
        """From now on whoever waits for a tool goes on when :attr:`bell` is done."""
        self.bell = concurrent.futures.Future()

    def begin(self, requests: Sequence[Request], rng: jax.Array | None) -> range:
        """Queues requests behind those that are there; returns the numbers that they are given.

        Args:
          requests: tasks in order.
          rng: PRNG key of those that have none of their own; None: all have one.

        Raises:
          ValueError: a prompt that does not fit.
        """
        first = self._n_begun
        if not requests:
            return range(first, first)
        if rng is not None:
            self._common = np.asarray(jax.device_get(jax.random.key_data(rng)))
        segments = [self._prompt(request) for request in requests]
        for request, segment in zip(requests, segments, strict=True):
            self._queue_up(self._n_begun, Group.of(request, segment, self._common))
            self._n_begun += 1
        return range(first, self._n_begun)

    def leave(self, number: int) -> None:
        """Ends a request for which nobody waits any more: its rows leave their slots and are forgotten."""
        self._read_all()
        if self.groups.pop(number, None) is None:
            return
        slots = {slot for slot, row in self.rows.items() if row.request == number}
        self.queue = deque(waiting for waiting in self.queue if waiting != number)
        self.feeds = deque(feed for feed in self.feeds if feed.slot not in slots)
        self.forks = [(source, targets) for source, targets in self.forks if source not in slots]
        self.waiting = {future: slot for future, slot in self.waiting.items() if slot not in slots}
        self.running -= slots
        for slot in slots:
            self.rows.pop(slot).context.close()
            self.free.append(slot)
        self._is_halted = self._is_halted or bool(slots)

    def _limits_of(self, row: Row) -> RolloutLimits:
        own = self.groups[row.request].request.own
        return self.limits if own is None else own.limits

    def _queue_up(self, number: int, group: Group) -> None:
        self.groups[number] = group
        self.queue.append(number)

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
        self.params, self.version, self.costs = params, version, RolloutCosts()
        self._feeder = Feeder(self.slots, self.renderer, params, self.rows, self.costs)
        held = self._held | set(self.rows)
        self.free = [slot for slot in reversed(range(self.limits.n_slots)) if slot not in held]
        if not self.rows:
            return
        if rebuild:
            self._feeder.rebuild()
        self.slots.set_running(self.running)
        for slot, row in self.rows.items():
            row.run_from(0)
            self._mark([slot], trace.DECODE if slot in self.running else trace.PAUSED)

    def round(self) -> None:
        """Brings every row as far as it can go without waiting, and the running ones on by a decode call."""
        self.admit()
        self.serve()
        self.feed()
        with self.costs.waiting("decode_s"):
            self.decode()
            self.collect()

    def pause(self) -> None:
        """Reads what is on its way; rows that are left then stand still, whoever else uses the slots."""
        self._read_all()
        if self.rows:
            self.slots.free_all()
        self.params = self._feeder = None  # the next step brings its own; a copy of these must not outlive this one

    def _mark(self, slots, state: str) -> None:
        if self._timeline is not None:
            for slot in slots:
                self._timeline.mark(slot, state)

    def _prompt(self, request: Request) -> chat.Segment:
        check_rows(request, self.limits.n_slots - len(self._held - set(self.rows)))
        own = request.own
        prompt = own.prompt if own and own.prompt is not None else self.renderer.prompt(request.task)
        check_prompt(request.task, prompt, self.renderer.n_pixels(prompt), own.limits if own else self.limits)
        return prompt

    # ---------------------------------------------------------------- slots in

    def admit(self) -> None:
        """Gives free slots to waiting rows, in their order: one prefill a group, the other rows forked.

        A group need not begin at once: its later rows take slots as they come free, and the prompt from a row of theirs
        that is still there. Only where none is left is it prefilled again.
        """
        while self.queue and self.free:
            i = self.queue[0]
            group = self.groups[i]
            source = self._source(i)
            slots = [self.free.pop() for _ in range(min(len(self.free), group.request.n_rows - group.n_begun))]
            self._keys[slots], self._keys_put = group.key, None
            if own := group.request.own:
                self._own[0, slots], self._own[1, slots] = own.temperature, own.top_p
            prompt = self.renderer.injection(group.segment)
            for slot, row in zip(slots, group.begin(len(slots), self.version), strict=True):
                self.rows[slot] = Row(group.request.task, group.request.number, row, i, slot)
                feed = self._inject(self.rows[slot], prompt)
                if source is None:
                    source = slot
                    self.feeds.append(feed)
            if targets := [slot for slot in slots if slot != source]:
                self.forks.append((source, targets))
            if group.n_begun == group.request.n_rows:
                self.queue.popleft()

    def _inject(self, row: Row, injection: Injection) -> Feed:
        feed = row.inject(injection)
        limits = self._limits_of(row)
        row.open_turn(limits.max_turn_tokens, limits.max_tokens)
        return feed

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
        bell = set() if self.bell is None else {self.bell}
        with self.costs.waiting("tool_wait_s"):
            ready = concurrent.futures.wait({*self.waiting, *bell}, timeout=timeout, return_when=mode).done
        for future in ready - bell:
            self._observe(self.rows[self.waiting.pop(future)], observed(future))

    def _observe(self, row: Row, observation) -> None:
        observation = row.attach(observation)
        if observation.status == ToolStatus.INFRA:
            return self._finish(row, Status.INFRA)
        renderer, rerender = self.renderer, self.context == "rerender"
        limits = self._limits_of(row)
        if rerender:
            segment = renderer.prompt(rerendered(row.task, row.turns, renderer.can_show))
        else:
            segment = renderer.observation(observation)
        n_images, n_pixels, length = (0, 0, 0) if rerender else (row.n_images, row.n_pixels, row.length)
        n_images, n_pixels = n_images + len(segment.images), n_pixels + renderer.n_pixels(segment)
        if segment.images and not limits.allows_images(n_images, n_pixels):
            return self._finish(row, Status.IMAGES)
        if length + len(segment.tokens) + 1 > limits.max_tokens:
            return self._finish(row, Status.TOKENS)  # a whole observation or none
        if rerender:
            row.restart()
        self.feeds.append(self._inject(row, renderer.injection(segment)))

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
        if self._timeline is not None:
            self.slots.wait()
        self._mark(slots, trace.DECODE)
        self.running.update(slots)
        for slot in slots:
            self.rows[slot].run_from(self.costs.n_decodes)

    def decode(self) -> None:
        """Dispatches a decode call, unless every row must have reached its limit in those that were not read yet."""
        if self._is_halted:
            self._read_all()
            self.slots.set_running(self.running)
            self._is_halted = False
        live = [self.rows[slot] for slot in self.running if self.rows[slot].bound < self.rows[slot].limit]
        if not live:
            return
        for row in live:
            row.expect(self.slots.decode_steps)
        if self._keys_put is None:
            self._keys_put, how = self.slots.put((self._keys.copy(), RowSampling(*self._own.copy())))
            self._how = how if self.temperature is None else self.temperature
        longest = max(row.bound for row in live)
        report = self.slots.decode(self.params, self._keys_put, self._how, longest)
        self.unread.append((self.costs.n_decodes, report))
        self.costs.count("n_decodes")
        self._dispatched = True

    # --------------------------------------------------------------- slots out

    def collect(self) -> None:
        """Reads the decode calls before the newest one; that one too where a row must reach its limit in it."""
        ending = any(self.rows[slot].bound >= self.rows[slot].limit for slot in self.running)
        keep = int(self._overlap and self._dispatched and not ending)
        self._dispatched = False
        self._read_all(keep)

    def _read_all(self, but: int = 0) -> None:
        while len(self.unread) > but:
            self.read_report(*self.unread.popleft())

    def read_report(self, number: int, report: DecodeReport) -> None:
        """Takes in what the decode call of this number sampled.

        Turns that stopped are parsed, their tool calls sent out, and rows that have ended finished.
        """
        with self.costs.waiting("device_wait_s"):
            status, code, length, tokens, logps = jax.device_get(report)
        for slot in sorted(self.running):
            row = self.rows[slot]
            if row.live_from > number:  # the report is of the slot before the row ran in it
                continue
            row.grow(tokens[slot], logps[slot], int(length[slot]), self.version)
            is_stopped, why = bool(status[slot] == STOPPED), int(code[slot])
            keep = None if self._watch is None else self._watch(row)
            if keep is not None:
                row.cut_turn(keep)
                self._is_halted, why = self._is_halted or not is_stopped, NO_STOP
            if is_stopped or keep is not None:
                self.running.discard(slot)
                row.end_turn()
                self._act(row, why)

    def _act(self, row: Row, code: int) -> None:
        action = row.read_turn(self.renderer.tokenizer, self.renderer.syntax, is_cut=code == BUDGET)
        self.costs.count("n_sampled", row.turns[-1].end - row.turns[-1].start)
        how = dict(is_cut=code == BUDGET, is_ended=row.last_token[0] == self.renderer.tokenizer.eos_id)
        status = status_after(action, self._limits_of(row), row.length, len(row.turns), **how)
        if status is not None:
            return self._finish(row, status)
        self._mark([row.slot], trace.PAUSED)
        if isinstance(action, Malformed):
            future = resolved(Observation(action.reason, (), ToolStatus.ERROR))
        else:
            future = self.toolbox.submit(action, row.context)
        self.waiting[future] = row.slot

    def _finish(self, row: Row, status: Status) -> None:
        self._mark([row.slot], trace.IDLE)
        trajectory = row.trajectory(status)
        row.context.close()
        group = self.groups[row.request]
        group.finish(trajectory)
        del self.rows[row.slot]
        self.free.append(row.slot)
        if self._on_finish is not None:
            self._on_finish(trajectory)
        if group.left == 0 and self._on_group is not None:
            again = self._on_group(row.request, group.rows)
            if again is not None:  # nothing of the old group is in a slot: its number is free
                self._queue_up(row.request, Group.of(again, self._prompt(again), self._common))
