"""R_format for a whole live trajectory: every turn in form, the turns in the protocol's order, and an answer.

Visual-ARFT (arXiv 2505.14246), section 3; its trainer judges one recorded step at a time. Departure:

1. The whole chain is judged at once, and so the order of its steps is part of the form.
"""

from arft_jax import protocol
from arft_jax.trajectory import Status, Trajectory


def _coding_order(actions: list[protocol.Action]) -> bool:
    """Problem, then code, then one answer; no code is needed where the problem named is ``none``."""
    if len(actions) < 2 or not isinstance(actions[0], protocol.Problem):
        return False
    steps = actions[1:-1]
    if not steps and actions[0].kinds != ("none",):
        return False
    return all(isinstance(step, protocol.Code) for step in steps)


def in_order(actions: list[protocol.Action], kind: str) -> bool:
    """Whether the actions follow the protocol of their kind of task.

    ``coding``: Problem, Code (one or more; none is fine after ``{'none'}``), Answer.
    ``search``: Search (any number, none included), Answer.
    ``general``: any actions, then an Answer.

    Args:
      actions: one a turn, in order.
      kind: ``coding``, ``search`` or ``general``.

    Raises:
      ValueError: another kind.
    """
    if kind not in ("coding", "search", "general"):
        raise ValueError(f"kind must be 'coding', 'search' or 'general': got {kind!r}")
    if not actions or not isinstance(actions[-1], protocol.Answer):
        return False
    if kind == "coding":
        return _coding_order(actions)
    if kind == "general":
        return not any(isinstance(action, (protocol.Answer, protocol.Malformed)) for action in actions[:-1])
    return all(isinstance(action, protocol.Search) for action in actions[:-1])


def format_score(trajectory: Trajectory) -> float:
    """R_format: 1.0 where the trajectory was answered, all its turns are in form and in order; else 0.0.

    In form: ``<think>..</think>`` and then exactly one action, no tag twice, nothing around it
    (:func:`arft_jax.protocol.is_well_formed`).
    """
    if trajectory.status is not Status.ANSWERED:
        return 0.0
    if not all(protocol.is_well_formed(turn.text) for turn in trajectory.turns):
        return 0.0
    return float(in_order([turn.action for turn in trajectory.turns], trajectory.task.kind))
