"""Rollouts from requests to trajectories: slots are filled, decoded, paused for tools and filled again.

A group's prompt is prefilled once and forked to its rows as slots come free. A row that calls a tool freezes in its
slot, cache kept, while the others decode and the tool runs on the host; its observation is fed behind the token
that stopped it. The next decode call is dispatched before the last one is read, so that the device works while the
host parses, tokenises and makes patches. A trajectory depends on (rng, task number, row) alone: not on who shares the
batch, on pauses, or on its place in the queue.

A rollout may leave its slowest groups behind, frozen in their slots, for the next one to resume (``run_on``): then the
tail of one step is decoded beside the next step's rows. Their later tokens come from newer weights; each token
carries the version that sampled it.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

from arft_jax.rollout.renderer import Renderer
from arft_jax.rollout.request import OnGroup, Request, RolloutLimits
from arft_jax.rollout.scheduler import Scheduler
from arft_jax.rollout.slots import SlotMachine
from arft_jax.rollout.trace import RolloutCosts, Timeline
from arft_jax.tools.toolbox import Toolbox
from arft_jax.trajectory import Trajectory


class Engine:
    """Rolls tasks out on the slots of one device state.

    :meth:`run` and :meth:`run_on` may be called any number of times, in any order.

    Args:
      slots: the device state and the programs; its sizes and budgets are the engine's ``limits``.
      renderer: makes prompts and observations model input; its syntax reads what the policy writes.
      overlap: the next decode call is dispatched before the last one is read.
    """

    def __init__(
        self,
        slots: SlotMachine,
        renderer: Renderer,
        *,
        overlap: bool = True,
    ):
        self.slots, self.renderer, self.limits = slots, renderer, slots.limits
        self._overlap = overlap
        self.costs = RolloutCosts()  # of the last run
        self._left: Scheduler | None = None

    def put(self, arrays):
        """Host arrays on every device."""
        return self.slots.put(arrays)

    @property
    def left_behind(self) -> Scheduler | None:
        """What :meth:`run_on` left behind: rows that stand still in their slots, and groups that wait for a slot."""
        return self._left

    @property
    def held(self) -> frozenset[int]:
        """Slots of rows that :meth:`run_on` left behind."""
        return frozenset(self._left.rows) if self._left else frozenset()

    @property
    def in_flight(self) -> list[Request]:
        """Groups that :meth:`run_on` left behind, finished ones included, each with its key, oldest first."""
        groups = self._left.groups.values() if self._left else ()
        return [dataclasses.replace(group.request, rng=group.key) for group in groups]

    def run(
        self,
        params,
        requests: Sequence[Request],
        toolbox: Toolbox,
        *,
        rng: jax.Array,
        temperature: float,
        max_turns: int | None = None,
        max_turn_tokens: int | None = None,
        on_finish: Callable[[Trajectory], None] | None = None,
        on_group: OnGroup | None = None,
        version: int = 0,
        context: str = "append",
        timeline: Timeline | None = None,
    ) -> list[list[Trajectory]]:
        """Rolls out every request to its end; ``costs`` then holds its seconds and counts.

        Rows that :meth:`run_on` left behind keep their slots and stand still.

        Args:
          params: the policy.
          requests: tasks in order.
          toolbox: serves the actions.
          rng: PRNG key of this run.
          temperature: 0 is greedy.
          max_turns, max_turn_tokens: override the limits' (evaluation may allow more than training).
          on_finish: called with each trajectory as it ends.
          on_group: called with the place of a request and its trajectories by row, as soon as all of them have ended. A
            request that it returns begins in that place while the others go on; None keeps what is there.
          version: of the policy's weights, for the record.
          context: ``append``, or ``rerender``: each turn has a prompt of its own (rerender.py); greedy alone.
          timeline: records the states of every slot.

        Returns:
          For each request, or what took its place last, its trajectories by row.

        Raises:
          ValueError: a prompt that does not fit, a context that is unknown or not greedy; before any compute.
        """
        limits = dataclasses.replace(
            self.limits,
            max_turns=max_turns or self.limits.max_turns,
            max_turn_tokens=max_turn_tokens or self.limits.max_turn_tokens,
        )
        options = dict(held=self.held, on_finish=on_finish, on_group=on_group, timeline=timeline, context=context)
        scheduler = self._scheduler(limits, toolbox, temperature, **options)
        scheduler.begin(requests, rng)
        self._play(scheduler, params, version, lambda: scheduler.n_done == len(scheduler.groups))
        if timeline is not None:
            timeline.end()
        return [group.rows for group in scheduler.take(len(requests))]

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
        on_finish: Callable[[Trajectory], None] | None = None,
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
          rebuild: the cache of rows that resume is computed again under these weights; else it is kept as older
            weights made it.
          on_finish: called with each trajectory as it ends; the same in every call that goes on from another.

        Returns:
          Trajectories by group and row, the group that began first first: those that had to be finished, then the
          oldest that are.

        Raises:
          ValueError: a prompt that does not fit, or fewer groups under way than ``n_groups``; before any compute.
        """
        scheduler = self._left or self._scheduler(self.limits, toolbox, temperature, on_finish=on_finish)
        scheduler.serve_with(toolbox, float(temperature))
        n = len(scheduler.groups) + len(requests)
        if n < n_groups:
            raise ValueError(f"n_groups must be under way: got n_groups={n_groups}, {n} groups")
        scheduler.begin(requests, rng)
        oldest = version - max_age
        self._left = scheduler
        self._play(scheduler, params, version, lambda: scheduler.ready(n_groups, oldest), rebuild)
        taken = scheduler.take(n_groups, oldest)
        self._left = scheduler if scheduler.groups else None
        return [group.rows for group in taken]

    def _scheduler(self, limits: RolloutLimits, toolbox: Toolbox, temperature: float, **options: Any) -> Scheduler:
        options |= dict(overlap=self._overlap)
        return Scheduler(self.slots, self.renderer, limits, toolbox, float(temperature), **options)

    def _play(
        self, scheduler: Scheduler, params, version: int, enough: Callable[[], bool], rebuild: bool = False
    ) -> None:
        begin = time.perf_counter()
        try:
            if not enough():
                params = self.slots.read(params)
                self.slots.warm_up(params, scheduler.temperature)
                scheduler.resume(params, version, rebuild)
                self.costs = scheduler.costs
                while not enough():
                    scheduler.round()
                scheduler.pause()
        except BaseException:  # rows were left running: the next run must not find them so, nor other shardings
            self.slots.free_all()
            self._left = None
            raise
        self.costs = scheduler.costs
        self.costs.end(time.perf_counter() - begin)
