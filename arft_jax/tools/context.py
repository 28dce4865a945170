"""What the tools of one trajectory share and keep: its task, its images by name, and a state for each tool."""

from collections.abc import Callable
from typing import Any, TypeVar

from absl import logging

from arft_jax.tools.bank import ImageBank
from arft_jax.trajectory import Image, Observation, Task

T = TypeVar("T")


class ToolContext:
    """Passed to every tool alike; one a trajectory, used by one thread at a time except for its images' pixels.

    Args:
      task: of the trajectory.
    """

    def __init__(self, task: Task):
        self.task = task
        self.images = ImageBank(task.images)
        self.spent_s = 0.0  # seconds that the tool calls so far took together
        self._kept: dict[str, Any] = {}

    @property
    def newest(self) -> Image | None:
        """The image that came last, or None."""
        return self.images.last

    def keep(self, tool: str, make: Callable[[], T]) -> T:
        """What a tool keeps for this trajectory; made at its first use.

        Args:
          tool: its name.
          make: makes it; if it has a method ``close``, that is called when the trajectory has ended.
        """
        if tool not in self._kept:
            self._kept[tool] = make()
        return self._kept[tool]

    def admit(self, observation: Observation) -> Observation:
        """Takes a tool's reply in: its images are given names, its seconds are counted.

        Returns:
          The reply as the policy sees it.
        """
        self.spent_s += observation.seconds
        return self.images.admit(observation)

    def close(self) -> None:
        """Closes what the tools kept; safe to repeat. A tool that fails to close is named in the log."""
        kept, self._kept = self._kept, {}
        for name, state in kept.items():
            close = getattr(state, "close", None)
            try:
                if close is not None:
                    close()
            except Exception:
                logging.exception("the tool %r raised when its trajectory ended", name)
