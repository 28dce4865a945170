"""Rewards of the user's own: functions of (trajectory, task) that add named parts to the total.

A function returns a number, or a mapping of parts by name, whose sum it is worth. What it cannot score is no fault of
the policy: the row is masked as after an infrastructure failure, and the run goes on.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from arft_jax.trajectory import Task, Trajectory

RewardFunction = Callable[[Trajectory, Task], float | Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class ExtraReward:
    """A reward function, its name in metrics, and its weight in the total.

    Args:
      name: its parts are called ``<name>`` (their sum) and ``<name>/<part>``.
      function: of a trajectory and its task.
      weight: of the sum in the total; may be negative.
    """

    name: str
    function: RewardFunction
    weight: float


class RewardFailure(Exception):
    """A reward function raised, or returned something else than numbers; ``__cause__`` is what it raised, if anything.

    The message is one sentence that names the reward and the task.
    """


def reward_names(paths: Sequence[str], taken: Sequence[str]) -> list[str]:
    """The name of each function in metrics: behind the colon of its path, or the whole path where that is not unique.

    >>> reward_names(["a:turns", "b.c:format", "d:x", "e:x"], ["format"])
    ['turns', 'b.c:format', 'd:x', 'e:x']
    """
    short = [path.rpartition(":")[2] for path in paths]
    return [path if name in taken or short.count(name) > 1 else name for path, name in zip(paths, short, strict=True)]


def score_extra(extra: ExtraReward, trajectory: Trajectory) -> dict[str, float]:
    """``{name: sum}`` of one function, and ``{name/part: value}`` where it returns parts.

    Raises:
      RewardFailure: the function raised, or returned no number, no parts, nan or an infinity.
    """
    where = f"the reward {extra.name} of task {trajectory.task.id!r}, row {trajectory.row}"
    try:
        with jax.transfer_guard("allow"):  # the user's function may use JAX, whatever the loop forbids itself
            value = extra.function(trajectory, trajectory.task)
    except (Exception, SystemExit) as error:
        raise RewardFailure(f"{where} raised {type(error).__name__}: {error}") from error
    if not isinstance(value, Mapping):
        return {extra.name: _number(value, where)}
    if not value or not all(isinstance(part, str) and part for part in value):
        raise RewardFailure(f"{where} must return a number or a mapping of parts by name: got {_shown(value)}")
    parts = {part: _number(number, f"part {part!r} of {where}") for part, number in value.items()}
    return {extra.name: math.fsum(parts.values())} | {f"{extra.name}/{part}": v for part, v in parts.items()}


def _number(value: Any, where: str) -> float:
    """A finite float of what a reward returned: Python's, numpy's and JAX's scalars are numbers, texts are not."""
    try:
        number = float(value) if np.ndim(value) == 0 and not isinstance(value, (str, bytes)) else math.nan
    except Exception:
        number = math.nan
    if not math.isfinite(number):
        raise RewardFailure(f"{where} must return a finite number: got {_shown(value)}")
    return number


def _shown(value: Any) -> str:
    try:
        return repr(value)[:80]
    except Exception:
        return f"a {type(value).__name__}"
