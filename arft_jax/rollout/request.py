"""What a rollout is asked for, how far each request has come, and the sizes and budgets of a rollout."""

import dataclasses
from collections.abc import Callable

import numpy as np

from arft_jax.data.chat import Segment
from arft_jax.trajectory import Task, Trajectory


@dataclasses.dataclass(frozen=True)
class RolloutLimits:
    """Sizes and budgets of a rollout; see config.rollout for the units."""

    n_slots: int
    group_size: int
    max_turns: int
    max_turn_tokens: int
    max_tokens: int
    extend_rows: int
    extend_chunk: int
    n_features: int
    max_images: int = 0  # of a trajectory, the prompt's included; 0: no limit
    max_image_pixels: int = 0  # of a trajectory's images together, as encoded; 0: no limit

    def allows_images(self, n_images: int, n_pixels: int) -> bool:
        """Whether a trajectory may show so many images of so many pixels together."""
        too_many = 0 < self.max_images < n_images
        too_large = 0 < self.max_image_pixels < n_pixels
        return not (too_many or too_large)


@dataclasses.dataclass(frozen=True)
class Request:
    """One task to roll out: ``number`` seeds its rows ``0 .. n_rows-1`` together with the run's rng.

    Args:
      task: what is asked, and what its tools see.
      number: of the task.
      n_rows: trajectories.
      rng: uint32[2], a key of its own in place of the run's.
      own: limits and sampling of its own in place of the run's; None: the run's.
    """

    task: Task
    number: int
    n_rows: int
    rng: np.ndarray | None = None
    own: "OwnTerms | None" = None


@dataclasses.dataclass(frozen=True)
class OwnTerms:
    """What a request may have of its own where rows of different callers share the slots.

    Args:
      limits: its budgets; the sizes are those of the slots.
      temperature: 0 is greedy.
      top_p: 1 is off.
      prompt: in place of the task's.
    """

    limits: RolloutLimits
    temperature: float = 0.0
    top_p: float = 1.0
    prompt: Segment | None = None


OnGroup = Callable[[int, list[Trajectory]], Request | None]  # place of a request, its rows -> what takes its place


@dataclasses.dataclass
class Group:
    """The rows of one request.

    Args:
      request: what to roll out.
      segment: its prompt.
      key: uint32[2], of its rows.
      rows: finished trajectories by row.
      left: rows that are not finished.
      n_begun: rows that were given a slot.
      version: of the weights under which its rows began; None: they have not.
    """

    request: Request
    segment: Segment
    key: np.ndarray
    rows: list[Trajectory | None]
    left: int
    n_begun: int = 0
    version: int | None = None

    @classmethod
    def of(cls, request: Request, segment: Segment, key: np.ndarray) -> "Group":
        """A group of which no row has begun; ``key`` is for a request that has none of its own."""
        own, n = key if request.rng is None else request.rng, request.n_rows
        return cls(request, segment, np.asarray(own, np.uint32), [None] * n, n)

    def begin(self, n: int, version: int) -> range:
        """Gives slots to the next ``n`` rows, whose numbers it returns; the first ones make ``version`` the group's."""
        self.version = version if self.version is None else self.version
        first, self.n_begun = self.n_begun, self.n_begun + n
        return range(first, self.n_begun)

    def finish(self, trajectory: Trajectory) -> None:
        """Takes in a row that ended."""
        self.rows[trajectory.row] = trajectory
        self.left -= 1


def check_rows(request: Request, n_slots: int) -> None:
    """Raises a ValueError for a request without a row, or where none of ``n_slots`` slots is left to run it in."""
    if min(request.n_rows, n_slots) < 1:
        raise ValueError(
            f"a request must have a row, and a slot to run in: got {request.n_rows} rows, {n_slots} slots that are "
            "not held (config.rollout.n_slots)"
        )


def check_prompt(task: Task, prompt: Segment, n_pixels: int, limits: RolloutLimits) -> None:
    """Raises a ValueError where a prompt leaves no room for an answer, or shows more than a trajectory may.

    Args:
      task: for the message.
      prompt: the task's.
      n_pixels: of the prompt's images, as encoded.
      limits: what must hold the prompt.
    """
    if len(prompt.tokens) + 1 > limits.max_tokens:
        raise ValueError(
            f"the prompt of task {task.id!r} must leave room for an answer: got {len(prompt.tokens)} "
            f"tokens, max_tokens={limits.max_tokens} (config.rollout.max_tokens)"
        )
    n_images = len(prompt.images)
    if not limits.allows_images(n_images, n_pixels):
        raise ValueError(
            f"the images of task {task.id!r} must fit a trajectory's budget: got {n_images} images of {n_pixels} px, "
            f"at most {limits.max_images} and {limits.max_image_pixels} px, 0 being no limit "
            "(config.rollout.max_images, config.rollout.max_image_pixels)"
        )
