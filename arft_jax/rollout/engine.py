"""The slot scheduler: fills slots, decodes, serves pauses, refills.

A group's prompt is prefilled once and forked to its rows as slots come free. A row that calls a tool freezes in its
slot, cache kept, while the others decode and the tool runs on the host; its observation is fed behind the token
that stopped it. The next segment is dispatched before the last one is read, so that the device works while the host
parses, tokenises and makes patches. A trajectory depends on (rng, task number, row) alone: not on who shares the batch,
on pauses, or on its place in the queue.

A rollout may leave its slowest groups behind, frozen in their slots, for the next one to go on with (``run_on``): then
the tail of one step is decoded beside the next step's rows. Their later tokens come from newer weights; each token
carries the version that sampled it.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from arft_jax import protocol
from arft_jax.data import chat
from arft_jax.data.batch import VisionBucket
from arft_jax.data.patches import PatchStore
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.models.qwen2_5_vl import positions as mrope
from arft_jax.rollout.prefill import empty_extension
from arft_jax.rollout.row import Feed, Row, image_spans
from arft_jax.rollout.scheduler import Scheduler
from arft_jax.rollout.trace import RolloutCosts, Timeline
from arft_jax.sharding import Placement
from arft_jax.steps.sampler import Rules, Sampler, UnstackedParams, column_counts
from arft_jax.steps.state import FREE, SlotState
from arft_jax.tools.toolbox import Toolbox
from arft_jax.trajectory import Image, Task, Trajectory


@dataclasses.dataclass(frozen=True)
class RolloutLimits:
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
    """One task to roll out: ``number`` seeds its rows ``0 .. n_rows-1`` together with the run's rng.

    ``rng``: uint32[2], a key of its own in place of the run's.
    """

    task: Task
    number: int
    n_rows: int
    rng: np.ndarray | None = None


class Engine:
    """Owns the device state and the compiled programs.

    :meth:`run` and :meth:`run_on` may be called any number of times, in any order.

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
        limits: RolloutLimits,
        tokenizer: Tokenizer,
        patches: PatchStore,
        bucket: VisionBucket,
        system: Callable[[Task], str],
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
        self.costs = RolloutCosts()  # of the last run
        self._warm: set = set()
        self._left: Scheduler | None = None  # what run_on left behind

    def put(self, arrays):
        """Host arrays on every device."""
        return jax.device_put(arrays, self._whole)

    def prompt(self, task: Task) -> chat.Segment:
        """The task's prompt as one segment of the token stream."""
        return chat.prompt_segment(
            self.tokenizer, self.patches.processor, self.system(task), task.question, task.images
        )

    def observation(self, observation) -> chat.Segment:
        """An observation, in its chat frame, as one segment of the token stream."""
        return chat.observation_segment(self.tokenizer, self.patches.processor, observation)

    def can_show(self, image: Image) -> bool:
        """Whether a prompt can hold the image: a sliver cannot be cut into patches."""
        try:
            self.patches.processor.grid_of(*image.size)
        except ValueError:
            return False
        return True

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

    @property
    def held(self) -> frozenset[int]:
        """Slots of rows that :meth:`run_on` left behind."""
        return frozenset(self._left.rows) if self._left else frozenset()

    @property
    def in_flight(self) -> list[Request]:
        """Groups that :meth:`run_on` left behind, finished ones included, each with its key, oldest first."""
        groups = self._left.groups.values() if self._left else ()
        return [dataclasses.replace(group.request, rng=group.key) for group in groups]

    def read(self, params):
        """Per-layer copies of the weights if the KV cache is unstacked; otherwise ``params`` unchanged."""
        if self.state.cache.is_unstacked and not isinstance(params, UnstackedParams):
            return self.sampler.unstack(params)
        return params

    def warm_up(self, params, temperature: float) -> None:
        """Compiles decode and extend for every number of columns, where there are several; changes no row."""
        if not self.bucket_columns:
            return
        keys = self.put(np.zeros((self.limits.n_slots, 2), np.uint32))
        for columns in column_counts(self.bucket_columns, self.limits.max_tokens):
            if ("extend", columns) not in self._warm:
                nothing = self.put(empty_extension(self.limits))
                self.state = self.sampler.extend(params, self.state, nothing, columns=columns)
            if (temperature, columns) not in self._warm:  # no row runs: the loop ends at once
                self.state, _ = self.sampler.decode(params, self.state, self.rules, keys, temperature, columns=columns)
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
        version: int = 0,
        context: str = "append",
    ) -> list[list[Trajectory]]:
        """Rolls out every request to its end; ``costs`` then holds its seconds and counts.

        Rows that :meth:`run_on` left behind keep their slots and stand still.

        Args:
          params: the policy.
          requests: tasks in order.
          toolbox: serves the actions.
          rng: PRNG key of this run.
          temperature: 0 is greedy.
          max_turns: overrides the limits' (evaluation may allow more than training).
          on_finish: called with each trajectory as it ends.
          version: of the policy's weights, for the record.
          context: ``append``, or ``rerender``: each turn has a prompt of its own (rollout_context.py); greedy alone.

        Returns:
          For each request its trajectories by row.

        Raises:
          ValueError: a prompt that does not fit, a context that is unknown or not greedy; before any compute.
        """
        session = Scheduler(self, toolbox, float(temperature), max_turns or self.limits.max_turns, on_finish, context)
        session.begin(requests, rng)
        self._play(session, params, version, lambda: session.n_done == len(session.groups))
        return [group.rows for group in session.take(len(requests))]

    def run_on(
        self,
        params,
        requests: Sequence[Request],
        toolbox: Toolbox,
        *,
        rng: jax.Array,
        temperature: float,
        n_groups: int,
        version: int,
        max_age: int,
        rebuild: bool = False,
    ) -> list[list[Trajectory]]:
        """Begins requests beside what earlier calls left, and rolls on until ``n_groups`` groups are finished.

        The others stay: rows frozen in their slots with their cache, tools at work, finished groups as they are. A
        group that would be older than ``max_age`` in a later call is waited for, so that no trajectory ever is.

        Args:
          params, requests, toolbox, temperature: as for :meth:`run`.
          rng: PRNG key of the requests; those that earlier calls left keep theirs.
          n_groups: how many to return.
          version: of the policy's weights; grows by one from call to call.
          max_age: versions that a group's first token may be behind when the group is returned.
          rebuild: the cache of rows that go on is computed anew under these weights; else it is kept as older weights
            made it.

        Returns:
          Trajectories by group and row, the group that began first first: those that had to be finished, then the
          oldest that are.

        Raises:
          ValueError: a prompt that does not fit, or fewer groups under way than ``n_groups``; before any compute.
        """
        session = self._left or Scheduler(self, toolbox, float(temperature), self.limits.max_turns, None)
        session.toolbox, session.temperature = toolbox, float(temperature)
        n = len(session.groups) + len(requests)
        if n < n_groups:
            raise ValueError(f"n_groups must be under way: got n_groups={n_groups}, {n} groups")
        session.begin(requests, rng)
        oldest = version - max_age
        self._left = session
        self._play(session, params, version, lambda: session.ready(n_groups, oldest), rebuild)
        taken = session.take(n_groups, oldest)
        self._left = session if session.groups else None
        return [group.rows for group in taken]

    def _play(
        self, session: Scheduler, params, version: int, enough: Callable[[], bool], rebuild: bool = False
    ) -> None:
        begin = time.perf_counter()
        try:
            if not enough():
                params = self.read(params)
                self.warm_up(params, session.temperature)
                session.resume(params, version, rebuild)
                self.costs = session.costs
                while not enough():
                    session.round()
                session.pause()
        except BaseException:  # rows were left running: the next run must not find them so, nor other shardings
            status = self.state.status
            free = jax.device_put(np.full(status.shape, FREE, np.int32), status.sharding)
            self.state, self._left = self.state._replace(status=free), None
            raise
        self.costs = session.costs
        self.costs.total_s = time.perf_counter() - begin
        if self.timeline is not None:
            self.timeline.end()
