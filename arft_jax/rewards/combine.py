"""R_total = R_format + R_acc for a whole live trajectory or a recorded step, with its components.

Visual-ARFT (arXiv 2505.14246), section 3, equation R_total(q, o) = R_format(o) + R_acc(q, o).
"""

import dataclasses
from collections.abc import Callable

from arft_jax.rewards import form, judge, length, outcome, recorded, text
from arft_jax.rewards.extra import ExtraReward, RewardFailure, score_extra
from arft_jax.rewards.length import Overlong
from arft_jax.trajectory import Status, Trajectory

PARTS = ("format", "f1", "em", "problem", "step", "accuracy", "total")  # what every scored trajectory has
REWARD_FAILED = "reward_failed"  # in a trajectory's info: why an extra reward could not score it


@dataclasses.dataclass(frozen=True)
class RewardWeights:
    """How the components add up.

    Args:
      format: weight of R_format.
      accuracy: weight of R_acc.
      step: s in [0, 1]: R_acc = (1 - s) F1 + s (score of the first tool call), see outcome.step_score;
        R_acc = F1 for a task that has no record of that call.
      max_answer_words: longer answers score 0; 0 sets no cap.
      any_order: tool calls of a coding task may come in any order, see form.in_order.

    Raises:
      ValueError: a weight out of range.
    """

    format: float = 1.0
    accuracy: float = 1.0
    step: float = 0.0
    max_answer_words: int = 0
    any_order: bool = False

    def __post_init__(self):
        if not 0.0 <= self.step <= 1.0:
            raise ValueError(f"step must be in [0, 1]: got {self.step} (config.rewards.step)")
        for name in ("format", "accuracy", "max_answer_words"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0: got {getattr(self, name)} (config.rewards.{name})")


def score_trajectory(
    trajectory: Trajectory, weights: RewardWeights = RewardWeights(), embed: recorded.Embed | None = None
) -> dict[str, float]:
    """The reward of an ended trajectory and its parts.

    Args:
      trajectory: any status but ``infra``; one without an answer is worth 0.
      weights: how the parts add up; ``step`` and ``max_answer_words`` are of live trajectories.
      embed: compares a recorded step's query, see recorded.query_score.

    Returns:
      ``format``, ``f1``, ``em``, ``problem`` (the paper's score; 0 for search), ``step``, ``accuracy`` (R_acc
      before its weight) and ``total`` = format weight * R_format + accuracy weight * R_acc. Of a recorded step ``f1``
      and ``em`` are an answer's, ``problem`` a problem's, ``step`` that of any step but an answer; 0 elsewhere.

    Raises:
      ValueError: the status is ``infra``: an infrastructure failure is masked, never scored.
    """
    if trajectory.status is Status.INFRA:
        raise ValueError(
            f"status must not be 'infra' for a score: got task {trajectory.task.id!r}, row {trajectory.row}; mask "
            "the row instead"
        )
    if trajectory.task.target:
        return _score_recorded(trajectory, weights, embed)
    format_ = form.format_score(trajectory, any_order=weights.any_order)
    f1, em = outcome.answer_score(trajectory, max_answer_words=weights.max_answer_words)
    problem = outcome.problem_score(trajectory)
    step = outcome.step_score(trajectory)
    accuracy = f1 if step is None else (1.0 - weights.step) * f1 + weights.step * step
    return {
        "format": format_,
        "f1": f1,
        "em": em,
        "problem": problem,
        "step": 0.0 if step is None else step,
        "accuracy": accuracy,
        "total": weights.format * format_ + weights.accuracy * accuracy,
    }


@dataclasses.dataclass(frozen=True)
class Graded:
    """The judge's score as a part of the total.

    Args:
      judge: who is asked.
      rubric: what it is told, see judge.rendered.
      weight: of its score in the total.
    """

    judge: judge.Judge
    rubric: str
    weight: float

    def begin(self, trajectory: Trajectory, max_answer_words: int) -> None:
        """Starts to ask, unless the trajectory is worth 0 unasked."""
        if (prompt := judge.prompt_for(trajectory, self.rubric, max_answer_words)) is not None:
            self.judge.begin(prompt)

    def __call__(self, trajectory: Trajectory, max_answer_words: int) -> float:
        """In [0, 1].

        Raises:
          RewardFailure: none can be had.
        """
        prompt = judge.prompt_for(trajectory, self.rubric, max_answer_words)
        try:
            return 0.0 if prompt is None else self.judge.score(prompt)
        except judge.JudgeFailure as failure:
            raise RewardFailure(f"{failure}, for task {trajectory.task.id!r}, row {trajectory.row}") from None


@dataclasses.dataclass(frozen=True)
class Scorer:
    """Gives ended trajectories their rewards: R_total, and on top the penalty on length and the user's own functions.

    Args:
      weights: how R_total adds up.
      embed: compares a recorded step's query.
      extra: the user's functions; the total gains weight times value of each.
      on_failure: told of every failure of such a function.
      overlong: the penalty on length, which the total gains with its weight; None: there is none.
      graded: by the judge; None: there is none.
    """

    weights: RewardWeights = RewardWeights()
    embed: recorded.Embed | None = None
    extra: tuple[ExtraReward, ...] = ()
    on_failure: Callable[[RewardFailure], None] | None = None
    overlong: Overlong | None = None
    graded: Graded | None = None

    def begin(self, trajectory: Trajectory) -> None:
        """Starts what takes time, as soon as a trajectory has ended: the judge is asked while others are decoded."""
        if self.graded is not None and trajectory.status is not Status.INFRA:
            self.graded.begin(trajectory, self.weights.max_answer_words)

    def close(self) -> None:
        """Lets go of what :meth:`begin` needs."""
        if self.graded is not None:
            self.graded.judge.close()

    def __call__(self, trajectory: Trajectory) -> Trajectory:
        """The trajectory with its rewards; as it is after an infrastructure failure.

        Where the judge or an extra reward fails, no score is worth anything: the row is masked by status ``infra`` and
        its info says why under ``reward_failed``.
        """
        if trajectory.status is Status.INFRA:
            return trajectory
        rewards = score_trajectory(trajectory, self.weights, self.embed)
        if self.overlong is not None:
            rewards[length.NAME] = self.overlong(trajectory)
            rewards["total"] += self.overlong.weight * rewards[length.NAME]
        try:
            if self.graded is not None:
                rewards[judge.NAME] = self.graded(trajectory, self.weights.max_answer_words)
                rewards["total"] += self.graded.weight * rewards[judge.NAME]
            for extra in self.extra:
                found = score_extra(extra, trajectory)
                rewards |= found
                rewards["total"] += extra.weight * found[extra.name]
        except RewardFailure as failure:
            if self.on_failure is not None:
                self.on_failure(failure)
            info = trajectory.info | {REWARD_FAILED: str(failure)}
            return dataclasses.replace(trajectory, status=Status.INFRA, info=info)
        return dataclasses.replace(trajectory, rewards=rewards)


def _score_recorded(trajectory: Trajectory, weights: RewardWeights, embed: recorded.Embed | None) -> dict[str, float]:
    """The released trainer's reward of what the policy wrote first, in the components of a live trajectory."""
    kind, target = trajectory.task.kind, trajectory.task.target
    written = trajectory.turns[0].text if trajectory.turns else ""
    step = recorded.step_of(kind, target)
    format_ = recorded.format_score(kind, target, written)
    accuracy = recorded.accuracy_score(kind, target, written, embed)
    is_answer = step == "answer"
    given, wanted = (recorded.inner("answer", whole) for whole in (written, target))
    return {
        "format": format_,
        "f1": accuracy if is_answer else 0.0,
        "em": text.score_answer(given, (wanted,))[1] if is_answer and accuracy else 0.0,
        "problem": accuracy if step == "problem" else 0.0,
        "step": 0.0 if is_answer else accuracy,
        "accuracy": accuracy,
        "total": weights.format * format_ + weights.accuracy * accuracy,
    }
