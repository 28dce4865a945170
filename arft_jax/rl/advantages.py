"""Advantages of a step's rows: a baseline taken from the reward, and a scale.

GRPO (arXiv 2402.03300), section 4.1.2: A = (r - mean) / (std + epsilon) within the group, the standard deviation over
n - 1 (as ``torch.std``; ``jnp.std`` divides by n, 7 % less at 8). Dr. GRPO (arXiv 2503.20783), section 3.1, leaves the
division out; RLOO (arXiv 2402.14740), section 3, takes the mean of the other rows; REINFORCE++ (arXiv 2501.03262)
normalises over the tokens of the whole step. docs/objectives.md has the equations. Departures:

1. Rows that failed by an infrastructure failure are left out: the statistics are those of the valid rows alone.
2. ``epsilon`` is added to the standard deviation of REINFORCE++ too.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from arft_jax.words import BASELINES, SCALES


class AdvantageSettings(NamedTuple):
    """Static settings of the advantages.

    Args:
      baseline: ``group``, the mean of the group; ``leave_one_out``, that of its other rows; ``none``.
      scale: ``std``, of the group; ``batch``, mean and deviation over the tokens of the step; ``none``.
      epsilon: added to the standard deviation.
    """

    baseline: str = "group"
    scale: str = "std"
    epsilon: float = 1e-4


class RewardChange(NamedTuple):
    """What a KL term in the reward does to it: c_t = -β Σ_{i >= t} KL_i at each loss token t of a trajectory.

    Args:
      whole: float32[...], c at the first loss token: -β times the trajectory's KL.
      total, squares: float32[...], Σ c_t and Σ c_t² over its loss tokens.
    """

    whole: jax.Array
    total: jax.Array
    squares: jax.Array


class Advantages(NamedTuple):
    """A of a token = rows + slope * c_t, c_t from :func:`reward_change`, 0 where the reward has no KL term.

    Args:
      rows: float32[B].
      slope: float32[]; 0 where each row has one advantage.
    """

    rows: jax.Array
    slope: jax.Array


def reward_change(kl: jax.Array, loss_mask: jax.Array, beta: float) -> tuple[jax.Array, RewardChange]:
    """The change of the return that follows each token, and its sums over the trajectory.

    Worked, KL [1, 2, 4], mask [1, 0, 1], beta 1: changes [-5, 0, -4]; whole -5, total -9, squares 41.

    Args:
      kl: float32[..., T], of each token (:func:`arft_jax.rl.objectives.kl_to_reference`); not read off the mask.
      loss_mask: bool[..., T], the policy's own tokens of one trajectory.
      beta: weight of the KL.

    Returns:
      float32[..., T], 0 off the mask; its sums.
    """
    after = jnp.cumsum(jnp.where(loss_mask, kl, 0.0)[..., ::-1], axis=-1)[..., ::-1]
    changes = jnp.where(loss_mask, -beta * after, 0.0)
    return changes, RewardChange(-beta * after[..., 0], changes.sum(axis=-1), jnp.square(changes).sum(axis=-1))


def by_token(advantages: Advantages, changes: jax.Array, loss_mask: jax.Array) -> jax.Array:
    """float32[B, T], the advantage of each loss token, 0 elsewhere; ``changes`` float32[B, T] or 0."""
    return jnp.where(loss_mask, advantages.rows[:, None] + advantages.slope * changes, 0.0)


def step_advantages(
    rewards: jax.Array,
    valid: jax.Array,
    *,
    settings: AdvantageSettings,
    group_size: int,
    n_tokens: jax.Array | None = None,
    change: RewardChange | None = None,
) -> tuple[Advantages, dict[str, jax.Array]]:
    """The advantages of all rows of a step.

    Worked, G = 2, rewards [1, 0], epsilon 0. Group and std: mean 1/2, std sqrt((1/4 + 1/4) / 1) = 0.7071,
    A = [0.7071, -0.7071]. Leave one out, no scale: [1 - 0, 0 - 1] = [1, -1].

    Args:
      rewards: float32[B], row = p*G + g; what stands in an invalid row is not read.
      valid: bool[B], True where the row was scored.
      settings: baseline and scale.
      group_size: G, a Python integer.
      n_tokens: int32[B] or float32[B], loss tokens of each row; needed where the scale is ``batch``.
      change: float32[B] each, where the reward has a KL term. A row's reward changes by ``whole``; where the baseline
        is ``none`` each token's return by its own c_t instead.

    Returns:
      advantages, 0 for invalid rows and where all that they are compared with is the same: the rows of a group under
      a baseline and no or the group's scale, those of the step under ``batch``; stats of scalars, of the rewards as
      given: ``zero_variance_frac`` (of the groups that have a valid row), ``reward_mean`` and ``reward_std`` (mean over
      groups of the std within), ``valid_frac``; with ``change`` ``reward_kl_mean``, the mean of ``whole``.

    Raises:
      ValueError: B is no multiple of G, ``valid`` is not bool[B], a word is unknown, ``n_tokens`` are missing.
    """
    _check(rewards, valid, group_size, settings, n_tokens)
    valid = valid.reshape(-1, group_size)
    rewards = jnp.where(valid, rewards.astype(jnp.float32).reshape(-1, group_size), 0.0)
    stats = _reward_stats(rewards, valid)
    has_returns = change is not None and settings.baseline == "none"
    if change is not None:
        change = RewardChange(*(jnp.where(valid, part.reshape(valid.shape), 0.0) for part in change))
        stats["reward_kl_mean"] = change.whole.sum() / jnp.maximum(valid.sum().astype(jnp.float32), 1.0)
        rewards = rewards if has_returns else rewards + change.whole
    rows, slope = _centred(rewards, valid, settings.baseline), jnp.float32(has_returns)
    if settings.scale == "std":
        rows = rows / (_deviation(rewards, valid) + settings.epsilon)
    elif settings.scale == "batch":
        weights = jnp.where(valid, n_tokens.astype(jnp.float32).reshape(valid.shape), 0.0)
        rows, slope = _normalised(rows, weights, change if has_returns else None, settings.epsilon)
    return Advantages(jnp.where(valid, rows, 0.0).reshape(-1), slope), stats


def _check(
    rewards: jax.Array, valid: jax.Array, group_size: int, settings: AdvantageSettings, n_tokens: jax.Array | None
) -> None:
    if rewards.ndim != 1:
        raise ValueError(f"rewards must be float32[B]: got {rewards.dtype}{rewards.shape}")
    n_rows = rewards.shape[0]
    if not n_rows or group_size < 1 or n_rows % group_size:
        raise ValueError(
            f"rows must be a multiple of group_size: got B={n_rows}, group_size={group_size} "
            "(config.rollout.group_size)"
        )
    if valid.shape != rewards.shape or valid.dtype != jnp.bool_:
        raise ValueError(f"valid must be bool{rewards.shape}: got {valid.dtype}{valid.shape}")
    for key, word, words in (
        ("baseline", settings.baseline, BASELINES),
        ("scale_advantages", settings.scale, SCALES),
    ):
        if word not in words:
            raise ValueError(f"{key} must be one of {', '.join(words)}: got {word!r} (config.train.{key})")
    if settings.scale == "batch" and (n_tokens is None or n_tokens.shape != rewards.shape):
        got = "none" if n_tokens is None else f"{n_tokens.dtype}{n_tokens.shape}"
        raise ValueError(
            f"n_tokens must be one a row where scale_advantages is batch: got {got} (config.train.scale_advantages)"
        )


def _counts(valid: jax.Array) -> jax.Array:
    return valid.sum(axis=1, keepdims=True).astype(jnp.float32)


def _varies(rewards: jax.Array, valid: jax.Array) -> jax.Array:
    """bool[P, 1]. Compared, not computed: the float32 mean of equal rewards need not equal them."""
    highest = jnp.where(valid, rewards, -jnp.inf).max(axis=1, keepdims=True)
    return highest > jnp.where(valid, rewards, jnp.inf).min(axis=1, keepdims=True)


def _centred(rewards: jax.Array, valid: jax.Array, baseline: str) -> jax.Array:
    """float32[P, G]: the reward less its baseline, exactly 0 in a group of equal rewards."""
    if baseline == "none":
        return rewards
    count = _counts(valid)
    centred = rewards - rewards.sum(axis=1, keepdims=True) / jnp.maximum(count, 1.0)
    if baseline == "leave_one_out":  # r_i - (n m - r_i) / (n - 1) = n / (n - 1) (r_i - m)
        centred = centred * (count / jnp.maximum(count - 1.0, 1.0))
    return jnp.where(valid & _varies(rewards, valid), centred, 0.0)


def _deviation(rewards: jax.Array, valid: jax.Array) -> jax.Array:
    """float32[P, 1], over n - 1; 0 where all are the same."""
    squares = jnp.square(_centred(rewards, valid, "group")).sum(axis=1, keepdims=True)
    return jnp.sqrt(squares / jnp.maximum(_counts(valid) - 1.0, 1.0))


def _normalised(
    rows: jax.Array, weights: jax.Array, change: RewardChange | None, epsilon: float
) -> tuple[jax.Array, jax.Array]:
    """(A - mean) / (std + epsilon) over all tokens of the step, A of a token = rows + c_t: (rows, slope)."""
    n = jnp.maximum(weights.sum(), 1.0)
    none = jnp.zeros_like(rows)
    total, squares = (none, none) if change is None else (change.total, change.squares)
    mean = (weights * rows + total).sum() / n
    centred = rows - mean
    variance = (weights * jnp.square(centred) + 2.0 * centred * total + squares).sum() / n
    everyone = (weights > 0).reshape(1, -1)
    varies = _varies(rows.reshape(1, -1), everyone)[0, 0] | (squares.sum() > 0)
    slope = jnp.where(varies, 1.0 / (jnp.sqrt(jnp.maximum(variance, 0.0)) + epsilon), 0.0)
    return centred * slope, jnp.zeros_like(slope) if change is None else slope


def _reward_stats(rewards: jax.Array, valid: jax.Array) -> dict[str, jax.Array]:
    count = _counts(valid)
    n_groups, n_valid = jnp.maximum((count > 0).sum().astype(jnp.float32), 1.0), count.sum()
    return {
        "zero_variance_frac": ((count > 0) & ~_varies(rewards, valid)).sum().astype(jnp.float32) / n_groups,
        "reward_mean": rewards.sum() / jnp.maximum(n_valid, 1.0),
        "reward_std": _deviation(rewards, valid).sum() / n_groups,
        "valid_frac": n_valid / valid.size,
    }
