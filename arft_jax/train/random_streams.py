"""The random streams of training: which draws belong together, and how each gets its key.

Every draw of a run follows from (``config.seed``, stream, step). On devices the key is the threefry key
``[8 * seed + stream, step]``; rollouts fold the group's number, the row and the position into it (rollout/engine.py).
On the host it is numpy's generator over ``[seed, stream, step]``. So a resumed run draws what an unbroken one does, and
no stream moves another. A stream's number is part of every result: new streams take new numbers, up to 7.

A group's number names its task, and which of the step's draws of this task it is: no two groups of a step are drawn
alike, also where a task set is smaller than what a step draws from it (:func:`group_number`).

The first weights and the order of the tasks have generators of their own, seeded by ``config.seed`` (steps/init.py,
data/pipeline.py).
"""

import enum
from collections.abc import Sequence

import numpy as np

_N_STREAMS = 8


class Stream(enum.IntEnum):
    """What is drawn."""

    ROLLOUT = 0  # tokens of training rollouts; step: the GRPO step that began the group
    WARM_START = 1  # the order of recorded chains; step: the warm-start step
    EVALUATION = 2  # of greedy rollouts, which take a key and draw nothing from it; step: 0
    REFILL = 3  # tasks that take the places of dropped groups, and their tokens; step: the GRPO step
    ROUNDING = 4  # of parameters and moments at an update (steps/optimizer.py); step: of warm start and GRPO together
    UPDATES = 5  # which groups an update takes; step: the GRPO step


def stream_key(seed: int, stream: Stream, step: int) -> np.ndarray:
    """uint32[2], a threefry key on the host.

    Example: seed 3, EVALUATION, step 5 is [26, 5].
    """
    return np.array([seed * _N_STREAMS + stream, step], np.uint32)


def stream_generator(seed: int, stream: Stream, step: int) -> np.random.Generator:
    """A generator of host draws."""
    return np.random.default_rng([seed, int(stream), step])


def group_number(sizes: Sequence[int], place: int, index: int, occurrence: int = 0) -> int:
    """The number of a group: two groups of a step have the same one only where set, index and occurrence agree.

    A task that a step draws again counts as a task further on, as if its set were written out again behind itself.

    Example: sets of 3 and 5 tasks. Task 2 of the second set, place 1: 2 * 2 + 1 = 5; drawn again in the same step it
    is number (2 + 5) * 2 + 1 = 15.

    Args:
      sizes: tasks of each set.
      place: of the task's set among them.
      index: of the task in its set.
      occurrence: how many of the step's earlier draws gave the same task.
    """
    return (index + occurrence * sizes[place]) * len(sizes) + place


def task_place(sizes: Sequence[int], number: int) -> tuple[int, int]:
    """(place of the set, index in it) of the task that a group's number names; see :func:`group_number`.

    Example: sets of 3 and 5 tasks: (1, 2) for number 5 and for number 15.
    """
    place = number % len(sizes)
    return place, number // len(sizes) % sizes[place]
