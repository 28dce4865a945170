"""The policy loss as a loop over trajectories and tokens in float64: what the vectorised one is compared with."""

import dataclasses
import math

import numpy as np


@dataclasses.dataclass
class Row:
    """One trajectory's loss tokens: float64[n] each. ``old`` None: on policy."""

    logps: np.ndarray
    advantages: np.ndarray
    old: np.ndarray | None
    ref: np.ndarray
    sampler: np.ndarray
    entropy: np.ndarray


def rows_of(x: dict[str, np.ndarray], on_policy: bool = False) -> list[Row]:
    """The trajectories of arrays [B, T], one a row; a row without a loss token is none."""
    names = ("logps", "advantages", "old_logps", "ref_logps", "sampler_logps", "entropy")
    parts = [
        [x[name][b][mask].astype(np.float64) for name in names] for b, mask in enumerate(x["loss_mask"]) if mask.any()
    ]
    return [Row(part[0], part[1], None if on_policy else part[2], *part[3:]) for part in parts]


def _bounded(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def _weights(row: Row, old: np.ndarray, s) -> list[float]:
    ratios = [math.exp(a - b) for a, b in zip(old, row.sampler, strict=True)]
    if s.importance == "none":
        return [1.0] * len(ratios)
    if s.importance == "sequence":
        ratios = [math.prod(ratios)] * len(ratios)
    if s.importance_mode == "mask":
        return [w if s.importance_floor <= w <= s.importance_cap else 0.0 for w in ratios]
    return [_bounded(w, s.importance_floor, s.importance_cap) for w in ratios]


def _kl(logp: float, ref: float, estimator: str) -> float:
    r = math.exp(ref - logp)
    return {"k1": logp - ref, "k2": (logp - ref) ** 2 / 2, "k3": r - math.log(r) - 1}[estimator]


def _token_losses(row: Row, held: np.ndarray, s) -> list[float]:
    """The loss of each token; ``held`` stands where the definition stops the gradient."""
    old = held if row.old is None else row.old
    n, losses = len(old), []
    whole, whole_held = sum(row.logps - old), sum(held - old)
    for t, weight in enumerate(_weights(row, old, s)):
        gain = float(row.advantages[t])
        if s.ratio == "token":
            ratio, ratio_held = math.exp(row.logps[t] - old[t]), math.exp(held[t] - old[t])
        elif s.ratio == "product":
            ratio = math.exp(whole)
        elif s.ratio == "sequence":
            ratio = math.exp(whole / n)
        else:
            ratio = math.exp(whole_held / n) * math.exp(row.logps[t] - held[t])
        low, high = 1 - s.epsilon_low, 1 + s.epsilon_high
        if s.surrogate == "cispo":
            objective = _bounded(ratio_held, low, high) * gain * float(row.logps[t])
        else:
            objective = min(ratio * gain, _bounded(ratio, low, high) * gain)
            if s.dual_clip and gain < 0:
                objective = max(objective, s.dual_clip * gain)
        loss = -weight * objective
        if s.beta and s.kl_in == "loss":
            loss += s.beta * _kl(row.logps[t], row.ref[t], s.kl)
        losses.append(loss)
    return losses


def loss_of(rows: list[Row], settings, held: list[np.ndarray] | None = None) -> float:
    """The loss of trajectories under :class:`arft_jax.rl.objectives.PolicySettings`."""
    held = [row.logps for row in rows] if held is None else held
    losses = [_token_losses(row, at, settings) for row, at in zip(rows, held, strict=True)]
    n_tokens = sum(len(row) for row in losses)
    if settings.aggregation == "token":
        loss = sum(sum(row) for row in losses) / n_tokens
    elif settings.aggregation == "sequence":
        loss = sum(sum(row) / len(row) for row in losses) / len(losses)
    else:
        loss = sum(sum(row) / settings.divisor_len for row in losses) / len(losses)
    return loss - settings.entropy_bonus * sum(float(h) for row in rows for h in row.entropy) / n_tokens


def gradient_of(rows: list[Row], settings, step: float = 1e-6) -> list[np.ndarray]:
    """d loss / d logps by central differences in float64, what is held standing still."""
    held = [row.logps.copy() for row in rows]
    gradients = [np.zeros(len(row.logps)) for row in rows]
    for row, gradient, at in zip(rows, gradients, held, strict=True):
        for t in range(len(at)):
            values = []
            for sign in (1, -1):
                row.logps[t] = at[t] + sign * step
                values.append(loss_of(rows, settings, held))
            row.logps[t] = at[t]
            gradient[t] = (values[0] - values[1]) / (2 * step)
    return gradients
