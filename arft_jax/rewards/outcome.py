"""R_acc for a whole live trajectory: what the final answer is worth, and whether the problem was named rightly.

Visual-ARFT (arXiv 2505.14246), section 3. Departures, both because the tools run:

1. The answer alone is judged; a code step earns nothing by itself (the released trainer pays a constant 0.9).
2. An answer above a length cap scores 0: a long answer that holds every word is no answer.
"""

from collections.abc import Sequence

from arft_jax.rewards import choice, text
from arft_jax.trajectory import Trajectory

_ROTATIONS = ("rotation90", "rotation180")


def count_words(answer: str) -> int:
    """Words between spaces; a Chinese character counts as one.

    >>> count_words("two words"), count_words("红色 bus")
    (2, 3)
    """
    return len("".join(f" {c} " if text.is_chinese(c) else c for c in answer).split())


def answer_score(trajectory: Trajectory, *, max_answer_words: int = 0) -> tuple[float, float]:
    """(F1, EM) of the final answer, the best over the task's answers; of a multiple choice both are 1 or 0 (choice.py).

    Args:
      trajectory: an ended rollout; without an answer it scores 0.
      max_answer_words: a longer answer scores 0; 0 sets no cap.

    Returns:
      f1, em in [0, 1].
    """
    answer = trajectory.answer
    if answer is None or (max_answer_words and count_words(answer) > max_answer_words):
        return 0.0, 0.0
    if trajectory.task.choices:
        right = choice.score_choice(answer, trajectory.task.choices, trajectory.task.answers[0])
        return right, right
    return text.score_answer(answer, trajectory.task.answers, chinese=trajectory.task.kind != "search")


def problem_step_score(named: Sequence[str], truth: Sequence[str]) -> float:
    """The paper's score of a ``<problem>`` step.

    1 for the exact set, 0.5 for a lone rotation where the truth is that rotation and one more, else 0.

    Args:
      named: kinds that the policy named.
      truth: the true kinds; empty means ``none``.

    >>> [problem_step_score([k], ["rotation90", "dark"]) for k in ("rotation90", "dark")]
    [0.5, 0.0]
    """
    named_set, truth_set = set(named), set(truth) or {"none"}
    if named_set == truth_set:
        return 1.0
    lone_rotation = len(named_set) == 1 and named_set <= set(_ROTATIONS)
    return 0.5 if lone_rotation and named_set < truth_set and len(truth_set) == 2 else 0.0


def graded_problem_score(named: Sequence[str], truth: Sequence[str]) -> float:
    """Half a point each for the right turn of the image (or none) and for the right other fault (or none).

    The paper's half credit for a lone rotation, carried over to what goes with it; a crop is right or wrong as a whole.

    >>> [graded_problem_score(k, ["rotation90", "dark"]) for k in (["rotation90"], ["dark", "rotation180"], ["crop"])]
    [0.5, 0.5, 0.0]
    """
    named_set, truth_set = set(named) - {"none"}, set(truth) - {"none"}
    if "crop" in named_set | truth_set:
        return float(named_set == truth_set)
    turns = set(_ROTATIONS)
    return 0.5 * (named_set & turns == truth_set & turns) + 0.5 * (named_set - turns == truth_set - turns)


def step_score(trajectory: Trajectory) -> float | None:
    """What the first tool call is worth by the task's own record of it, in [0, 1].

    Coding: :func:`graded_problem_score`. Others: F1 of the first query and the recorded one, in
    place of the paper's cosine of sentence embeddings. 0 without such a turn; None where the task has no record.
    """
    task = trajectory.task
    if task.kind != "coding" and not task.query:
        return None
    for call in (turn.call for turn in trajectory.turns if turn.call):
        if task.kind == "coding" and call.tool == "diagnose":
            return graded_problem_score(call.arguments["problems"], task.problems)
        if task.kind != "coding" and call.tool == "search":
            return text.score_answer(call.arguments["query"], (task.query,))[0]
    return 0.0


def problem_score(trajectory: Trajectory) -> float:
    """:func:`problem_step_score` of the first ``<problem>`` turn; 0 without one, and for search tasks."""
    if trajectory.task.kind != "coding":
        return 0.0
    for call in (turn.call for turn in trajectory.turns if turn.call):
        if call.tool == "diagnose":
            return problem_step_score(call.arguments["problems"], trajectory.task.problems)
    return 0.0
