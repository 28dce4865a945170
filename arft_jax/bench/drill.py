"""Late tools and dead tools held against instant ones, on the same tasks."""

from collections.abc import Sequence
from typing import Any

from arft_jax.bench.shape import GROUP_SIZE, N_TURNS, PROMPT_LEN
from arft_jax.trajectory import Status

N_SLOTS, N_TASKS = 16, 8
# Sampled tokens of a turn, about 7 s on two cores: a row that waits holds its slot, so that a pause that is long
# beside a turn cannot be hidden.
TURN_LEN = 200
MAX_TOKENS = PROMPT_LEN + N_TURNS * TURN_LEN + 208  # two observations and a word to spare
# Of twenty calls one takes 2 s, the others around 0.2 s: median 0.2.
LATENCIES_S = (0.2, 0.15, 0.25, 0.2, 0.1, 0.2, 0.3, 0.2, 0.2, 0.15, 2.0, 0.2, 0.25, 0.2, 0.1, 0.2, 0.3, 0.2, 0.2, 0.2)


def tool_drill(ours: Any, latencies_s: Sequence[float] = LATENCIES_S, repeats: int = 3) -> dict[str, Any]:
    """Wall time of 64 trajectories in 16 slots with instant, late and dead tools, one after the other.

    Returns:
      ``instant_s``, ``late_s`` by round, ``ratio`` of each round; ``down``: how the trajectories ended without tools.
    """
    engine = ours.bench.engine(N_SLOTS, MAX_TOKENS)

    def play(**tools):
        return ours.play(engine, N_TASKS, GROUP_SIZE, TURN_LEN, N_TURNS, **tools)

    play()
    instant, late = [], []
    for _ in range(repeats):
        instant.append(play()[0])
        late.append(play(latencies_s=latencies_s)[0])
    before = engine.slots.sampler.n_compiled()
    _, groups = play(down=True)
    ended = [t.status for group in groups for t in group]
    return {
        "latencies_s": list(latencies_s),
        "instant_s": instant,
        "late_s": late,
        "ratio": [b / a for a, b in zip(instant, late, strict=True)],
        "down": {str(status): ended.count(status) for status in Status if status in ended},
        "recompiled": engine.slots.sampler.n_compiled() - before,
    }
