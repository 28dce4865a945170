"""A penalty on long completions, to be added to the total.

DAPO (arXiv 2503.14476), section 3.4, equation 13, soft overlong punishment. Departures:

1. The length counts sampled tokens alone: what tools return is not of the policy's making.
2. The penalty has a weight.
"""

import dataclasses

from arft_jax.trajectory import Trajectory

NAME = "overlong"  # of the part among a trajectory's rewards


@dataclasses.dataclass(frozen=True)
class Overlong:
    """R_length(y) = clip((from - |y|) / (to - from), -1, 0), |y| the sampled tokens of a trajectory.

    In the paper's symbols ``to`` is L_max and ``to - from`` is L_cache.

    Worked, from 4 to 8: 0 at 4 tokens, -1/4 at 5, -1 at 8 and beyond.

    Args:
      start: the longest length without a penalty, tokens (config.train.overlong_from).
      end: the shortest length of the whole penalty, tokens (config.train.overlong_to).
      weight: of the penalty in the total (config.train.overlong_weight).

    Raises:
      ValueError: a range that is empty, or a negative weight.
    """

    start: int
    end: int
    weight: float = 1.0

    def __post_init__(self):
        if not 0 <= self.start < self.end:
            raise ValueError(
                f"overlong_from must be at least 0 and below overlong_to: got {self.start}, {self.end} "
                "(config.train.overlong_from, config.train.overlong_to)"
            )
        if not self.weight >= 0:
            raise ValueError(f"overlong_weight must be at least 0: got {self.weight} (config.train.overlong_weight)")

    def __call__(self, trajectory: Trajectory) -> float:
        """The penalty before its weight, in [-1, 0]."""
        length = int(trajectory.loss_mask.sum())
        return min(0.0, max(-1.0, (self.start - length) / (self.end - self.start)))
