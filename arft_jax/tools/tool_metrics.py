"""What a tool did, counted for the log."""

import collections
import threading

from arft_jax.trajectory import Observation, ToolStatus

_COUNTED = (ToolStatus.OK, ToolStatus.ERROR, ToolStatus.LIMIT, ToolStatus.INFRA)
_N_SECONDS = 1000  # latest calls whose durations are kept


def percentile(ordered: list[float], share: float) -> float:
    """Nearest rank: of [1, 2, 3, 4] the 0.5 percentile is 2; 0 of nothing."""
    return ordered[max(-int(-share * len(ordered) // 1), 1) - 1] if ordered else 0.0


class ToolMetrics:
    """Counts since the start, safe for threads; durations of the latest 1000 calls."""

    def __init__(self):
        self._lock = threading.Lock()
        self._counts: collections.Counter[str] = collections.Counter()
        self._seconds: collections.deque[float] = collections.deque(maxlen=_N_SECONDS)

    def count(self, name: str) -> None:
        """Adds one to a count of its own."""
        with self._lock:
            self._counts[name] += 1

    def add(self, observation: Observation) -> None:
        """Counts a call by its outcome."""
        with self._lock:
            self._counts["calls"] += 1
            self._counts[observation.status] += 1
            self._seconds.append(observation.seconds)

    def figures(self) -> dict[str, float]:
        """``calls``, one count a status, ``retries``, ``refused_open``, ``cache_hits``, ``p50_s`` and ``p99_s``."""
        with self._lock:
            counts, ordered = dict(self._counts), sorted(self._seconds)
        names = ("calls", *map(str, _COUNTED), "retries", "refused_open", "cache_hits")
        figures = {name: float(counts.get(name, 0)) for name in names}
        return figures | {"p50_s": percentile(ordered, 0.5), "p99_s": percentile(ordered, 0.99)}
