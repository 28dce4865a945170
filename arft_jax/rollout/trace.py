"""What one rollout cost and when: seconds by cause, and, where asked for, the state of every slot over time."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator

EXTEND, DECODE, PAUSED, IDLE = "extend", "decode", "paused", "idle"


@dataclasses.dataclass
class RolloutCosts:
    """Seconds and counts of one call of Engine.run.

    Args:
      total_s: from begin to end.
      device_wait_s: the host waited for a decode call's report.
      decode_s: dispatching and reading decode calls, parsing turns; ``device_wait_s`` is a part of it.
      tool_wait_s: the host had nothing to do but wait for a tool.
      n_decodes, n_extends, n_encodes, n_forks: device calls.
      n_sampled: tokens that were sampled.
    """

    total_s: float = 0.0
    device_wait_s: float = 0.0
    decode_s: float = 0.0
    tool_wait_s: float = 0.0
    n_decodes: int = 0
    n_extends: int = 0
    n_encodes: int = 0
    n_forks: int = 0
    n_sampled: int = 0

    @property
    def host_s(self) -> float:
        """Seconds in which the host worked: dispatched, parsed, tokenised, made patches."""
        return self.total_s - self.device_wait_s - self.tool_wait_s

    @property
    def decode_host_s(self) -> float:
        """Seconds in which the host worked for decode calls; the rest of ``host_s`` is for feeding."""
        return self.decode_s - self.device_wait_s

    def count(self, name: str, n: int = 1) -> None:
        """Adds ``n`` to the field ``name``."""
        setattr(self, name, getattr(self, name) + n)

    def end(self, total_s: float) -> None:
        """The call is over after so many seconds."""
        self.total_s = total_s

    @contextlib.contextmanager
    def waiting(self, name: str) -> Iterator[None]:
        """Adds the seconds inside to the field ``name``."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, name, getattr(self, name) + time.perf_counter() - begin)


class Timeline:
    """Spans of each slot's states, for a picture.

    Recording waits for the device behind every extend, so that its span is the device's: a recorded rollout is a little
    slower.

    Args:
      n_slots: of the engine: a slot that no row ever used was idle throughout. 0: those that were used.
      max_spans: kept; later ones are counted alone.
    """

    def __init__(self, n_slots: int = 0, max_spans: int = 100_000):
        self._n_slots = n_slots
        self.spans: list[tuple[int, str, float, float]] = []  # slot, state, begin and end in seconds
        self.n_dropped = 0
        self._max_spans, self._now = max_spans, {}
        self._begin: float | None = None

    def mark(self, slot: int, state: str) -> None:
        """From now on the slot is in this state."""
        now = time.perf_counter()
        self._begin = now if self._begin is None else self._begin
        self._close(slot, now)
        self._now[slot] = (state, now)

    def _close(self, slot: int, now: float) -> None:
        if slot not in self._now:
            return
        state, since = self._now.pop(slot)
        if state == IDLE:
            return
        if len(self.spans) < self._max_spans:
            self.spans.append((slot, state, since - self._begin, now - self._begin))
        else:
            self.n_dropped += 1

    def end(self) -> None:
        """Closes what is open."""
        for slot in list(self._now):
            self._close(slot, time.perf_counter())

    @property
    def slots(self) -> list[int]:
        """All of the engine's, used or not."""
        return sorted({span[0] for span in self.spans} | set(range(self._n_slots)))

    @property
    def end_s(self) -> float:
        """Where the last span ends."""
        return max((span[3] for span in self.spans), default=0.0)

    def shares(self) -> dict[str, float]:
        """The part of the slots' time, from 0 to ``end_s``, that each state took; together 1.

        Example: of four slots one decodes for 3 s of 4 s: decode 3/16, idle 13/16.

        Raises:
          ValueError: nothing was recorded.
        """
        if not self.spans:
            raise ValueError("a timeline must hold at least one span: got none (Engine.run(timeline=...))")
        seconds = dict.fromkeys((DECODE, EXTEND, PAUSED), 0.0)
        for _, state, begin, until in self.spans:
            seconds[state] += until - begin
        share = {state: taken / (self.end_s * len(self.slots)) for state, taken in seconds.items()}
        return share | {IDLE: max(1.0 - sum(share.values()), 0.0)}
