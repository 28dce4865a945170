"""What a step's trajectories and its tools say, as figures to log."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from arft_jax.rewards.combine import REWARD_FAILED
from arft_jax.trajectory import Status, ToolStatus, Trajectory

_NOT_COUNTED = ("breaker", "p50_s", "p99_s")  # of a tool's figures: as they are now


def rollout_metrics(trajectories: Sequence[Trajectory], version: int | None = None) -> dict[str, float]:
    """Means over the trajectories of a step.

    Args:
      trajectories: of the step.
      version: of the weights that the step updates; None: nothing is said about the age of what they hold.

    Returns:
      ``reward`` and its parts as ``reward/<part>`` over the scored ones (for each kind of task too, where several
      are mixed), a part's mean over those that have it; ``format_frac``, ``tool_calls`` and ``turns`` a trajectory,
      ``tool_ended/<status>`` shares of the calls, ``infra_frac``, ``reward_failed`` (rows that a reward function of
      the user's could not score), ``completion_len`` in tokens, ``ended/<status>`` shares, ``unfinished_frac`` (rows
      that a budget cut: :attr:`Trajectory.is_cut`). With ``version``:
      ``staleness_mean`` and ``staleness_max``, versions that the sampled tokens are behind it, and ``carried_frac``,
      the share of the trajectories that hold an older one.
    """
    scored = [t for t in trajectories if t.rewards]
    calls = [turn.observation.status for t in trajectories for turn in t.turns if turn.observation is not None]
    n = len(trajectories)
    out = {
        "tool_calls": len(calls) / n,
        "infra_frac": sum(t.status is Status.INFRA for t in trajectories) / n,
        "reward_failed": float(sum(REWARD_FAILED in t.info for t in trajectories)),
        "unfinished_frac": sum(t.is_cut for t in trajectories) / n,
        "turns": float(np.mean([len(t.turns) for t in trajectories])),
        "completion_len": float(np.mean([len(t.tokens) - t.prompt_len for t in trajectories])),
        "sampled_len": float(np.mean([t.loss_mask.sum() for t in trajectories])),
    }
    out |= {f"tool_ended/{status}": calls.count(status) / max(len(calls), 1) for status in ToolStatus}
    out |= {f"ended/{status}": sum(t.status is status for t in trajectories) / n for status in Status}
    if version is not None:
        ages = [version - t.versions[t.loss_mask] for t in trajectories]
        every = np.concatenate([*ages, np.zeros(0, np.int32)])
        out["staleness_mean"] = float(every.mean()) if every.size else 0.0
        out["staleness_max"] = float(every.max(initial=0))
        out["carried_frac"] = float(np.mean([bool((age > 0).any()) for age in ages]))
    if scored:
        out |= _reward_means("reward", scored)
        out |= {"reward": out.pop("reward/total")} if "reward/total" in out else {}
        out |= {"format_frac": out["reward/format"]} if "reward/format" in out else {}
        for kind in sorted({t.task.kind for t in scored}):
            out |= _reward_means(f"reward_{kind}", [t for t in scored if t.task.kind == kind])
    return out


@dataclasses.dataclass
class SamplingTally:
    """What a step with dynamic sampling rolled out, on one process: a group at a time, none of which it holds."""

    n_kept: int = 0
    n_dropped: int = 0
    n_without: int = 0  # kept though their rewards do not vary
    n_tokens: int = 0  # sampled, those of dropped groups included
    n_dropped_tokens: int = 0
    totals: list[float] = dataclasses.field(default_factory=list)  # rewards of all scored rows

    def keep(self, rows: Sequence[Trajectory], has_variance: bool) -> None:
        """Counts a group that is trained."""
        self.n_kept += 1
        self.n_without += not has_variance
        self._count(rows)

    def drop(self, rows: Sequence[Trajectory]) -> None:
        """Counts a group that is not."""
        self.n_dropped += 1
        self.n_dropped_tokens += self._count(rows)

    def _count(self, rows: Sequence[Trajectory]) -> int:
        n_tokens = sum(int(row.loss_mask.sum()) for row in rows)
        self.n_tokens += n_tokens
        self.totals += [row.rewards["total"] for row in rows if row.rewards]
        return n_tokens

    def figures(self) -> dict[str, float]:
        """The step's figures.

        Returns:
          ``dynamic/attempts``, groups rolled out per group that is trained; ``dynamic/dropped_groups``;
          ``dynamic/spent_frac``, the share of the sampled tokens that were dropped;
          ``dynamic/without_variance_frac``, the share of the trained groups that have no variance all the same; and,
          where a row was scored, ``dynamic/reward``, the mean total over dropped groups too: what the policy earns,
          where ``reward`` is the mean over those that are trained.
        """
        out = {
            "dynamic/attempts": (self.n_kept + self.n_dropped) / max(self.n_kept, 1),
            "dynamic/dropped_groups": float(self.n_dropped),
            "dynamic/spent_frac": self.n_dropped_tokens / max(self.n_tokens, 1),
            "dynamic/without_variance_frac": self.n_without / max(self.n_kept, 1),
        }
        return out | ({"dynamic/reward": float(np.mean(self.totals))} if self.totals else {})


def tool_metrics(before: Mapping[str, float], now: Mapping[str, float]) -> dict[str, float]:
    """A toolbox's figures for one step.

    Args:
      before, now: :meth:`Toolbox.metrics` at the step's begin and end.

    Returns:
      ``tool/<name>/<figure>``: counts of this step alone; the breaker's state and the seconds of a call as they are.
    """
    return {name: v if name.rsplit("/", 1)[-1] in _NOT_COUNTED else v - before[name] for name, v in now.items()}


def _reward_means(prefix: str, scored: Sequence[Trajectory]) -> dict[str, float]:
    names = dict.fromkeys(name for t in scored for name in t.rewards)
    values = {name: [t.rewards[name] for t in scored if name in t.rewards] for name in names}
    return {f"{prefix}/{name}": float(np.mean(values[name])) for name in names}
