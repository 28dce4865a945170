"""Whoever is evaluated: something that is asked items and says how each of them ended."""

import dataclasses
from collections.abc import Callable, Sequence

from arft_jax.trajectory import Task, Trajectory


@dataclasses.dataclass(frozen=True, eq=False)
class Item:
    """What a policy is asked.

    Args:
      number: place in the benchmark, from 0: the same in every session, whatever else is asked beside it.
      task: the item.
    """

    number: int
    task: Task


OnEnd = Callable[[int, Trajectory], None]  # an item's number, and what became of it

# Asks every item once and calls OnEnd with each as it ends, in any order. A trajectory of status INFRA says that the
# item was not answered through no fault of the policy; an exception of OnEnd ends the call.
Policy = Callable[[Sequence[Item], OnEnd], None]
