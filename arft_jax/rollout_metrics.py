"""What a step's trajectories say about the policy, as figures to log."""

from collections.abc import Sequence

import numpy as np

from arft_jax.trajectory import Status, ToolStatus, Trajectory


def rollout_metrics(trajectories: Sequence[Trajectory], version: int | None = None) -> dict[str, float]:
    """Means over the trajectories of a step.

    Args:
      trajectories: of the step.
      version: of the weights that the step updates; None: nothing is said about the age of what they hold.

    Returns:
      ``reward`` and its parts as ``reward/<part>`` over the scored ones (for each kind of task too, where several
      are mixed); ``format_frac``, ``tool_calls`` and ``turns`` a trajectory, ``tool_error_frac`` of the calls,
      ``infra_frac``, ``completion_len`` in tokens, ``ended/<status>`` shares. With ``version``: ``staleness_mean``
      and ``staleness_max``, versions that the sampled tokens are behind it, and ``carried_frac``, the share of the
      trajectories that hold an older one.
    """
    scored = [t for t in trajectories if t.rewards]
    calls = [turn.observation.status for t in trajectories for turn in t.turns if turn.observation is not None]
    n = len(trajectories)
    bad = (ToolStatus.ERROR, ToolStatus.LIMIT, ToolStatus.REFUSED)
    out = {
        "tool_calls": len(calls) / n,
        "tool_error_frac": sum(status in bad for status in calls) / max(len(calls), 1),
        "infra_frac": sum(t.status is Status.INFRA for t in trajectories) / n,
        "turns": float(np.mean([len(t.turns) for t in trajectories])),
        "completion_len": float(np.mean([len(t.tokens) - t.prompt_len for t in trajectories])),
        "sampled_len": float(np.mean([t.loss_mask.sum() for t in trajectories])),
    }
    out |= {f"ended/{status}": sum(t.status is status for t in trajectories) / n for status in Status}
    if version is not None:
        ages = [version - t.versions[t.loss_mask] for t in trajectories]
        every = np.concatenate([*ages, np.zeros(0, np.int32)])
        out["staleness_mean"] = float(every.mean()) if every.size else 0.0
        out["staleness_max"] = float(every.max(initial=0))
        out["carried_frac"] = float(np.mean([bool((age > 0).any()) for age in ages]))
    if scored:
        out |= _reward_means("reward", scored)
        out["reward"] = out.pop("reward/total")
        out["format_frac"] = out["reward/format"]
        for kind in sorted({t.task.kind for t in scored}):
            out |= _reward_means(f"reward_{kind}", [t for t in scored if t.task.kind == kind])
    return out


def _reward_means(prefix: str, scored: Sequence[Trajectory]) -> dict[str, float]:
    return {f"{prefix}/{name}": float(np.mean([t.rewards[name] for t in scored])) for name in scored[0].rewards}
