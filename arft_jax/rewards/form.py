"""R_format for a whole live trajectory: every turn in form, the turns in the protocol's order, and an answer.

Visual-ARFT (arXiv 2505.14246), section 3; its trainer judges one recorded step at a time. Departure:

1. The whole chain is judged at once, and so the order of its steps is part of the form.
"""

from arft_jax.protocol import Action, Answer, ToolCall
from arft_jax.trajectory import Status, Trajectory

_PAPER = {"coding": ("diagnose", "python"), "search": ("search",)}  # the tools of the paper's two agents


def _coding_order(calls: list[ToolCall]) -> bool:
    """Diagnosis, then code; no code is needed where the problem named is ``none``."""
    if not calls or calls[0].tool != "diagnose":
        return False
    if len(calls) == 1:
        return list(calls[0].arguments["problems"]) == ["none"]
    return all(call.tool == "python" for call in calls[1:])


def in_order(actions: list[Action], kind: str, *, any_order: bool = False) -> bool:
    """Whether the actions follow the protocol of their kind of task.

    ``coding``: a diagnosis, code (once or more; none is fine after ``{'none'}``), an answer. ``search``: searches, or
    none, and an answer. The tools of the paper's other agent are out of place in both; calls of tools that the paper
    does not have may stand anywhere before the answer. Every other kind: calls of any tools, or none, and an answer.

    Args:
      actions: one a turn, in order.
      kind: of the task.
      any_order: whether these two kinds keep no order either: their policy is offered other tools than the paper's.
    """
    if not actions or not isinstance(actions[-1], Answer) or not all(isinstance(a, ToolCall) for a in actions[:-1]):
        return False
    if kind not in _PAPER or any_order:
        return True
    calls = [call for call in actions[:-1] if any(call.tool in tools for tools in _PAPER.values())]
    if not all(call.tool in _PAPER[kind] for call in calls):
        return False
    return kind != "coding" or _coding_order(calls)


def format_score(trajectory: Trajectory, *, any_order: bool = False) -> float:
    """R_format: 1.0 where the trajectory was answered, all its turns are in form and in order; else 0.0.

    In form: in the paper's syntax ``<think>..</think>`` and then exactly one action, no tag twice, nothing around it;
    each turn knows it since it was read (``Turn.in_form``).

    Args:
      trajectory: ended.
      any_order: see :func:`in_order`.
    """
    if trajectory.status is not Status.ANSWERED:
        return 0.0
    if not all(turn.in_form for turn in trajectory.turns):
        return 0.0
    return float(in_order([turn.action for turn in trajectory.turns], trajectory.task.kind, any_order=any_order))
