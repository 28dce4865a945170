"""How a turn ends a trajectory, and why."""

from arft_jax.protocol import Action, Answer, Malformed
from arft_jax.rollout.request import RolloutLimits
from arft_jax.rollout.row import Row
from arft_jax.trajectory import Status


def status_after(action: Action, limits: RolloutLimits, row: Row, *, is_cut: bool, is_ended: bool) -> Status | None:
    """The status of a trajectory that ends with this turn; None where a tool's reply, or a correction, comes next.

    Args:
      action: what the turn reads as; a turn that a budget cut never reads as an answer.
      limits: of the trajectory.
      row: the trajectory so far, this turn included.
      is_cut: a budget ended the turn.
      is_ended: the end token ended it.
    """
    if isinstance(action, Answer):
        return Status.ANSWERED
    if is_cut and isinstance(action, Malformed):
        return Status.TOKENS if row.length >= limits.max_tokens else Status.TURN_TOKENS
    if isinstance(action, Malformed) and not action.tell:
        return Status.NO_ACTION if is_ended else Status.MALFORMED
    return Status.TURN_LIMIT if len(row.turns) >= limits.max_turns else None
