"""Dynamic sampling: groups that teach nothing are dropped, and other tasks take their places, while the rollout runs.

DAPO (arXiv 2503.14476), section 3.2, equation 11: where all rewards of a group are the same, every advantage is 0.
Departures:

1. The paper samples whole batches until one is full. Here every place of the step's P groups is filled by itself: as
   soon as the last row of a group has ended, the group is scored, and where it is dropped the next task of its place
   begins in the slots that its rows left.
2. A place may try ``max_attempts`` tasks. A cap on the draws of the whole step would give the last of them to the
   places that ask first, which follows from timing and from the number of processes. The last task of a place is kept
   though its rewards do not vary: an update has its full number of groups, and such a group has no gradient.
3. Variance is that of the rows that are learnt from; a group with fewer than two of them has none.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from arft_jax.rollout.request import Request
from arft_jax.train.metrics import SamplingTally
from arft_jax.train.random_streams import Stream, group_number, stream_generator, task_place
from arft_jax.trajectory import Trajectory

Group = list[Trajectory]


def varies(rewards: np.ndarray, valid: np.ndarray) -> bool:
    """Whether a group has an advantage that is not 0: two of its valid rows differ in their reward.

    Example: [1, 1, 0] of which the last row is not valid: False.

    Args:
      rewards: float32[G].
      valid: bool[G].
    """
    return len(set(rewards[valid].tolist())) > 1


class Refills:
    """Which task takes the place of a dropped group: it follows from seed, step, place and attempt alone.

    A place keeps to its task set. The set's tasks that the step did not draw are shuffled and dealt to the set's
    places, first the second attempt of each, then the third: no task is under way twice while there are others.

    Args:
      seed: of the run.
      step: of GRPO.
      numbers: those of the groups that the step begins with, in order, on all processes (random_streams.group_number).
      sizes: tasks of each set.
    """

    def __init__(self, seed: int, step: int, numbers: Sequence[int], sizes: Sequence[int]):
        self._seed, self._step, self._sizes = seed, step, sizes
        self._drawn = [task_place(sizes, number) for number in numbers]
        self._orders: list[np.ndarray] = []

    def __call__(self, place: int, attempt: int) -> int:
        """The group's number.

        Args:
          place: of the step's P groups on all processes, from 0 on.
          attempt: from 1 on; attempt 0 is what the step began with.
        """
        if not self._orders:
            self._orders = self._shuffle()
        task_set, _ = self._drawn[place]
        places = [p for p, (one, _) in enumerate(self._drawn) if one == task_set]
        occurrence, at = divmod((attempt - 1) * len(places) + places.index(place), len(self._orders[task_set]))
        return group_number(self._sizes, task_set, int(self._orders[task_set][at]), occurrence)

    def _shuffle(self) -> list[np.ndarray]:
        """For each set the indices of its tasks that may be dealt: those not drawn, or all where none is left."""
        generator, orders = stream_generator(self._seed, Stream.REFILL, self._step), []
        for task_set, size in enumerate(self._sizes):
            order = generator.permutation(size)
            fresh = order[~np.isin(order, [index for one, index in self._drawn if one == task_set])]
            orders.append(fresh if fresh.size else order)
        return orders


@dataclasses.dataclass
class GroupFilter:
    """Scores the groups of a process's places as they end, and says which are dropped: the engine's ``on_group``.

    Args:
      n_places: groups of the step on this process.
      max_attempts: tasks that a place may try.
      score: a group's rows -> the same with their rewards; called once for each group.
      teaches: scored rows -> whether they vary.
      refill: (place, attempt) -> what begins in the place of a dropped group.
    """

    n_places: int
    max_attempts: int
    score: Callable[[Group], Group]
    teaches: Callable[[Group], bool]
    refill: Callable[[int, int], Request]

    def __post_init__(self):
        self.tally = SamplingTally()
        self._kept: dict[int, Group] = {}
        self._attempts = [0] * self.n_places

    def __call__(self, place: int, rows: Group) -> Request | None:
        """The request that takes the place of a group that has ended; None: the group is kept."""
        rows = self.score(rows)
        teaches = self.teaches(rows)
        self._attempts[place] += 1
        if not teaches and self._attempts[place] < self.max_attempts:
            self.tally.drop(rows)
            return self.refill(place, self._attempts[place])
        self.tally.keep(rows, teaches)
        self._kept[place] = rows
        return None

    @property
    def groups(self) -> list[Group]:
        """The kept groups, scored, by place; of a rollout that has ended."""
        return [self._kept[place] for place in range(self.n_places)]
