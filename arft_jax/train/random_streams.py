"""The random streams of training: which draws belong together, and how each gets its key.

Every draw of a run follows from (``config.seed``, stream, step). On devices the key is the threefry key
``[8 * seed + stream, step]``; rollouts fold the task's number, the row and the position into it (rollout/engine.py). On
the host it is numpy's generator over ``[seed, stream, step]``. So a resumed run draws what an unbroken one does, and no
stream moves another. A stream's number is part of every result: new streams take new numbers, up to 7.

The first weights and the order of the tasks have generators of their own, seeded by ``config.seed`` (steps/init.py,
data/pipeline.py).
"""

import enum

import numpy as np

_N_STREAMS = 8


class Stream(enum.IntEnum):
    """What is drawn."""

    ROLLOUT = 0  # tokens of training rollouts; step: the GRPO step that began the group
    WARM_START = 1  # the order of recorded chains; step: the warm-start step
    EVALUATION = 2  # of greedy rollouts, which take a key and draw nothing from it; step: 0
    ROUNDING = 3  # of parameters and moments at an update (steps/optimizer.py); step: of warm start and GRPO together
    UPDATES = 4  # which groups an update takes; step: the GRPO step


def stream_key(seed: int, stream: Stream, step: int) -> np.ndarray:
    """uint32[2], a threefry key on the host.

    Example: seed 3, EVALUATION, step 5 is [26, 5].
    """
    return np.array([seed * _N_STREAMS + stream, step], np.uint32)


def stream_generator(seed: int, stream: Stream, step: int) -> np.random.Generator:
    """A generator of host draws."""
    return np.random.default_rng([seed, int(stream), step])
