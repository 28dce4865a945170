"""Requests of many callers on one set of slots: a rollout that goes on until it is closed.

One thread plays (:meth:`Service.run`); any thread hands requests in. A request waits for a slot, decodes beside all
others, and its listener is told in the playing thread. What a request samples depends on its own key alone.
"""

import collections
import concurrent.futures
import dataclasses
import itertools
import threading
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from arft_jax.rollout.engine import Engine
from arft_jax.rollout.request import Request
from arft_jax.rollout.row import Row
from arft_jax.rollout.scheduler import Scheduler
from arft_jax.tools.toolbox import Toolbox
from arft_jax.trajectory import Trajectory


class Full(RuntimeError):
    """As many requests wait for a slot as may."""


class Closed(RuntimeError):
    """The service takes no more requests, or ended before this one was served."""


class Listener(Protocol):
    """Whoever waits for a request; called in the playing thread, which it must not hold up, and never raises."""

    def grown(self, row: Row) -> int | None:
        """A turn in the making has grown; returns how many of its tokens to keep where it must end, else None."""

    def ended(self, rows: Sequence[Trajectory]) -> None:
        """All trajectories of the request have ended."""

    def failed(self, error: Exception) -> None:
        """The request could not be served."""


@dataclasses.dataclass
class ServiceCounts:
    """What a service has done since it began: requests that ended, that were left, and sampled tokens."""

    n_ended: int = 0
    n_left: int = 0
    n_sampled: int = 0

    def add(self, name: str, n: int) -> None:
        """Adds ``n`` to the field ``name``."""
        setattr(self, name, getattr(self, name) + n)


class Service:
    """Plays requests as they come.

    Args:
      engine: whose slots are used; nothing else may run on it meanwhile.
      params: the policy, as the engine reads it.
      toolbox: serves the tool calls of requests that may have more than one turn.
      max_waiting: requests that may wait for a slot.
    """

    def __init__(self, engine: Engine, params, toolbox: Toolbox, max_waiting: int):
        self._engine, self._params, self._max_waiting = engine, params, max_waiting
        self._lock = threading.Lock()
        self._incoming: collections.deque[tuple[int, Request, Listener]] = collections.deque()
        self._leaving: list[int] = []
        self._tickets = itertools.count()
        self._listeners: dict[int, tuple[int, Listener]] = {}  # by the number of the group: ticket, listener
        self._numbers: dict[int, int] = {}  # tickets of the groups that were begun
        self._is_closed, self._fault = False, None
        self.counts = ServiceCounts()
        self._scheduler = Scheduler(
            engine.slots, engine.renderer, engine.limits, toolbox, None,
            on_group=self._ended, watch=self._watch,
        )  # fmt: skip
        self._scheduler.hang_bell()

    # ---------------------------------------------------------- from any thread

    @property
    def n_waiting(self) -> int:
        """Requests that wait for a slot."""
        return len(self._incoming) + len(self._scheduler.queue)

    @property
    def n_slots(self) -> int:
        """Slots that there are."""
        return self._engine.limits.n_slots

    @property
    def n_busy(self) -> int:
        """Slots in use."""
        return len(self._scheduler.rows)

    @property
    def is_closed(self) -> bool:
        """No more requests are taken."""
        return self._is_closed

    @property
    def fault(self) -> BaseException | None:
        """What ended the playing thread; None: nothing has."""
        return self._fault

    def submit(self, request: Request, listener: Listener) -> int:
        """Hands a request in; returns its ticket.

        Args:
          request: with a key and terms of its own.
          listener: is told how it goes on.

        Raises:
          Full: too many wait.
          Closed: the service takes no more.
        """
        with self._lock:
            if self._is_closed:
                raise Closed("the server is stopping")
            if self.n_waiting >= self._max_waiting:
                raise Full(f"{self.n_waiting} requests wait for a slot already")
            ticket = next(self._tickets)
            self._incoming.append((ticket, request, listener))
            self._ring()
        return ticket

    def leave(self, ticket: int) -> None:
        """Nobody waits for this request any more: its slots are freed; its listener is told nothing."""
        with self._lock:
            self._leaving.append(ticket)
            self._ring()

    def close(self) -> None:
        """No more requests are taken; :meth:`run` returns when those that are there have ended."""
        with self._lock:
            self._is_closed = True
            self._ring()

    def leave_all(self) -> None:
        """Ends what is there, waiting or half played: listeners are told :class:`Closed`."""
        with self._lock:
            self._is_closed = True
            self._leaving.append(-1)
            self._ring()

    def _ring(self) -> None:
        bell = self._scheduler.bell
        if not bell.done():
            bell.set_result(None)

    # ------------------------------------------------------- the playing thread

    def run(self) -> None:
        """Plays until it is closed and nothing is left.

        Raises:
          Exception: of the device or of our own code; every listener has been told.
        """
        scheduler, slots = self._scheduler, self._engine.slots
        try:
            params = slots.read(self._params)
            slots.warm_up(params, None)
            scheduler.resume(params, 0, False)
            while True:
                if not scheduler.groups:
                    concurrent.futures.wait([scheduler.bell])
                self._take_news()
                if scheduler.groups:
                    scheduler.round()
                elif self._is_closed and not self._incoming:
                    break
            scheduler.pause()
        except BaseException as error:
            self._fault = error
            slots.free_all()
            raise
        finally:
            self._tell_all(Closed("the server ended before the request did"))

    def _take_news(self) -> None:
        with self._lock:
            if not self._scheduler.bell.done():
                return
            self._scheduler.hang_bell()
            incoming, self._incoming = self._incoming, collections.deque()
            leaving, self._leaving = set(self._leaving), []
        for ticket, request, listener in incoming:
            if ticket in leaving:
                self.counts.add("n_left", 1)
            elif -1 in leaving:
                listener.failed(Closed("the server is stopping"))
            else:
                self._begin(ticket, request, listener)
        for ticket in leaving & set(self._numbers):
            self._drop(ticket)
        if -1 in leaving:
            for ticket in list(self._numbers):
                listener = self._listeners[self._numbers[ticket]][1]
                self._drop(ticket)
                listener.failed(Closed("the server is stopping"))

    def _begin(self, ticket: int, request: Request, listener: Listener) -> None:
        try:
            [number] = self._scheduler.begin([request], None)
        except ValueError as error:  # a prompt that does not fit
            listener.failed(error)
            return
        self._listeners[number], self._numbers[ticket] = (ticket, listener), number

    def _drop(self, ticket: int) -> None:
        number = self._numbers.pop(ticket)
        self._listeners.pop(number)
        self._scheduler.leave(number)
        self.counts.add("n_left", 1)

    def _watch(self, row: Row) -> int | None:
        entry = self._listeners.get(row.request)
        return None if entry is None else entry[1].grown(row)

    def _ended(self, number: int, rows: list[Trajectory]) -> None:
        self._scheduler.groups.pop(number)
        self.counts.add("n_sampled", sum(int(np.sum(row.loss_mask)) for row in rows))
        if number in self._listeners:
            ticket, listener = self._listeners.pop(number)
            self._numbers.pop(ticket)
            self.counts.add("n_ended", 1)
            listener.ended(rows)

    def _tell_all(self, error: Exception) -> None:
        with self._lock:
            self._is_closed = True
            incoming, self._incoming = self._incoming, collections.deque()
        listeners = [listener for _, _, listener in incoming] + [entry[1] for entry in self._listeners.values()]
        self._listeners, self._numbers = {}, {}
        for listener in listeners:
            listener.failed(error)
