"""What a turn reads as, and how it ends a trajectory: the same for rollouts and for models behind a server."""

from arft_jax.protocol import Action, Answer, Malformed
from arft_jax.rollout.request import RolloutLimits
from arft_jax.syntax.spec import Syntax
from arft_jax.trajectory import Status


def read_turn(text: str, syntax: Syntax, is_cut: bool) -> tuple[Action, bool]:
    """(what the turn asks for, whether it keeps the form).

    Args:
      text: of the turn.
      syntax: in which the policy writes.
      is_cut: a budget ended the turn; what then reads as an answer is none.
    """
    action = syntax.parse(text)
    if is_cut and isinstance(action, Answer):
        action = Malformed("the turn was cut by its budget")
    return action, not isinstance(action, Malformed) and syntax.is_well_formed(text)


def status_after(
    action: Action, limits: RolloutLimits, length: int, n_turns: int, *, is_cut: bool, is_ended: bool
) -> Status | None:
    """The status of a trajectory that ends with this turn; None where a tool's reply, or a correction, comes next.

    Args:
      action: of :func:`read_turn`.
      limits: of the trajectory.
      length: tokens of the trajectory, this turn included; 0 where they are not known.
      n_turns: of the trajectory, this one included.
      is_cut: a budget ended the turn.
      is_ended: the end token ended it.
    """
    if isinstance(action, Answer):
        return Status.ANSWERED
    if is_cut and isinstance(action, Malformed):
        return Status.TOKENS if length >= limits.max_tokens else Status.TURN_TOKENS
    if isinstance(action, Malformed) and not action.tell:
        return Status.NO_ACTION if is_ended else Status.MALFORMED
    return Status.TURN_LIMIT if n_turns >= limits.max_turns else None
