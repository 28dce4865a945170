"""What an update reads of a trajectory, and nothing else of it."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from arft_jax.trajectory import ImageSpan, Trajectory


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """One trajectory to learn from; T tokens.

    Args:
      tokens: int32[T].
      positions: int32[3, T], M-RoPE.
      loss_mask: bool[T], the policy's own tokens; nothing where nothing is to be learnt.
      sampler_logps: float32[T], nats.
      images: where images stand.
      group: number of its group in the step.
      prefix_len: tokens that it begins with as the others of its group do; 0: none.
      advantages: float32[T].
      old_logps, ref_logps: float32[T], nats, of the policy before the step and of the reference.

    Of the last three None: not known, or not read.
    """

    tokens: np.ndarray
    positions: np.ndarray
    loss_mask: np.ndarray
    sampler_logps: np.ndarray
    images: tuple[ImageSpan, ...]
    group: int
    prefix_len: int
    advantages: np.ndarray | None = None
    old_logps: np.ndarray | None = None
    ref_logps: np.ndarray | None = None

    @property
    def own_len(self) -> int:
        """Tokens behind the prefix."""
        return len(self.tokens) - self.prefix_len


def samples_of(
    trajectories: Sequence[Trajectory],
    *,
    valid: Sequence[bool] | None = None,
    group_size: int = 1,
    first_group: int = 0,
) -> list[Sample]:
    """Trajectories as samples without an advantage.

    Args:
      trajectories: what is learnt from; row p*G + g.
      valid: for each, whether it is; nothing of the others is. None: all are.
      group_size: G, trajectories of one prompt.
      first_group: number of the first group.
    """
    made = []
    for i, t in enumerate(trajectories):
        first = trajectories[i - i % group_size]
        learnt = valid is None or bool(valid[i])
        made.append(
            Sample(
                tokens=t.tokens,
                positions=t.positions,
                loss_mask=t.loss_mask if learnt else np.zeros(len(t.tokens), bool),
                sampler_logps=t.sampler_logps,
                images=t.images,
                group=first_group + i // group_size,
                prefix_len=t.prompt_len if group_size > 1 and _begin_alike(first, t) else 0,
            )
        )
    return made


def _begin_alike(a: Trajectory, b: Trajectory) -> bool:
    """Whether two trajectories have the same prompt: tokens, places and images."""
    return a is b or (
        np.array_equal(a.tokens[: a.prompt_len], b.tokens[: b.prompt_len])
        and np.array_equal(a.positions[:, : a.prompt_len], b.positions[:, : b.prompt_len])
        and _images_of_prompt(a) == _images_of_prompt(b)
    )


def _images_of_prompt(t: Trajectory) -> list[tuple]:
    return [dataclasses.astuple(span) for span in t.images if span.start < t.prompt_len]
