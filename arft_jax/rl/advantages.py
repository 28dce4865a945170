"""Group-relative advantages.

GRPO (arXiv 2402.03300), section 4.1.2, as in Visual-ARFT (arXiv 2505.14246): A = (r - mean) / (std + epsilon) within
the group, the standard deviation over n - 1 (as ``torch.std``; ``jnp.std`` divides by n, 7 % less at 8).
Departures:

1. Rows that failed by an infrastructure failure are left out: the statistics are those of the valid rows alone.
2. ``scale="none"`` leaves the division out (Dr. GRPO, arXiv 2503.20783, section 3.1).
"""

import jax
import jax.numpy as jnp

from arft_jax.words import SCALES


def group_advantages(
    rewards: jax.Array, group_size: int, valid: jax.Array, *, epsilon: float = 1e-4, scale: str = "std"
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """A = (r - mean) / (std + epsilon), within each group of G rows.

    Worked, G = 2, rewards [1, 0], epsilon 0: mean 1/2, std sqrt((1/4 + 1/4) / 1) = 0.7071, A = [0.7071, -0.7071].

    Args:
      rewards: float32[B], row = p*G + g; what stands in an invalid row is not read.
      group_size: G, a Python integer.
      valid: bool[B], True where the row was scored.
      epsilon: added to the standard deviation.
      scale: ``std``, or ``none`` for A = r - mean.

    Returns:
      advantages float32[B]: 0 for invalid rows, for groups whose valid rewards are all the same, and for groups
      of one valid row; stats of scalars: ``zero_variance_frac`` (of the groups that have a valid row),
      ``reward_mean`` and ``reward_std`` (mean over groups of the std within), ``valid_frac``.

    Raises:
      ValueError: B is no multiple of G, ``valid`` is not bool[B], or ``scale`` is unknown.
    """
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
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(SCALES)}: got {scale!r} (config.train.scale_advantages)")
    valid = valid.reshape(-1, group_size)
    rewards = jnp.where(valid, rewards.astype(jnp.float32).reshape(-1, group_size), 0.0)
    count = valid.sum(axis=1, keepdims=True).astype(jnp.float32)
    centred = jnp.where(valid, rewards - rewards.sum(axis=1, keepdims=True) / jnp.maximum(count, 1.0), 0.0)
    std = jnp.sqrt(jnp.square(centred).sum(axis=1, keepdims=True) / jnp.maximum(count - 1.0, 1.0))
    # compared, not computed: the float32 mean of equal rewards need not equal them
    highest = jnp.where(valid, rewards, -jnp.inf).max(axis=1, keepdims=True)
    lowest = jnp.where(valid, rewards, jnp.inf).min(axis=1, keepdims=True)
    varies = highest > lowest
    std = jnp.where(varies, std, 0.0)
    advantages = centred / (std + epsilon) if scale == "std" else centred
    advantages = jnp.where(valid & varies, advantages, 0.0)
    n_groups = jnp.maximum((count > 0).sum().astype(jnp.float32), 1.0)
    n_valid = count.sum()
    stats = {
        "zero_variance_frac": ((count > 0) & ~varies).sum().astype(jnp.float32) / n_groups,
        "reward_mean": rewards.sum() / jnp.maximum(n_valid, 1.0),
        "reward_std": std.sum() / n_groups,
        "valid_frac": n_valid / valid.size,
    }
    return advantages.reshape(-1), stats
