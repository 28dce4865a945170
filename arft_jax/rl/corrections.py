"""The gap between what sampled and what trains: how large it is, and weights that correct for it.

Truncated importance sampling: Ionides 2008, "Truncated Importance Sampling", equation 2; for language models by
token, E = min(exp(old_logp - sampler_logp), cap), as in https://fengyao.notion.site/off-policy-rl. Departure:

1. A token's gap is cut at +-20 nats: under top-k or top-p newer weights may give a token of older ones probability 0,
   about -1e30 nats, which as a figure would hide every other token. Such tokens are counted.
"""

import jax
import jax.numpy as jnp

from arft_jax.words import IMPORTANCE_LEVELS

_MAX_LOG_RATIO = 20.0


def _gap(sampler_logps: jax.Array, old_logps: jax.Array, loss_mask: jax.Array) -> jax.Array:
    """float32[B, T]: trainer - sampler, nats, cut at +-20; 0 off the mask."""
    for name, array in (("sampler_logps", sampler_logps), ("old_logps", old_logps)):
        if array.shape != loss_mask.shape:
            raise ValueError(f"{name} must be of loss_mask's shape: got {array.shape} and {loss_mask.shape}")
    gap = jnp.where(loss_mask, old_logps, 0.0) - jnp.where(loss_mask, sampler_logps, 0.0)
    return jnp.clip(gap, -_MAX_LOG_RATIO, _MAX_LOG_RATIO)


def importance_weights(
    sampler_logps: jax.Array, old_logps: jax.Array, loss_mask: jax.Array, *, cap: float = 2.0, level: str = "token"
) -> jax.Array:
    """w = min(exp(old_logp - sampler_logp), cap), constants to a gradient.

    Worked, cap 2: a token sampled at probability 0.2 that the trainer gives 0.3 weighs 1.5; given 0.9, 2.

    Args:
      sampler_logps: float32[B, T], nats, written while sampling.
      old_logps: float32[B, T], nats, the trainer's forward over the weights that sampled.
      loss_mask: bool[B, T].
      cap: largest weight, above 0.
      level: ``token``; or ``sequence``: the ratio of the whole row, capped, on each of its tokens.

    Returns:
      float32[B, T], 1 off the mask.

    Raises:
      ValueError: shapes that do not match, a cap not above 0, an unknown level.
    """
    if cap <= 0:
        raise ValueError(f"cap must be above 0: got {cap}")
    if level not in IMPORTANCE_LEVELS:
        raise ValueError(f"level must be one of {', '.join(IMPORTANCE_LEVELS)}: got {level!r}")
    gap = _gap(sampler_logps, old_logps, loss_mask)
    if level == "sequence":
        gap = jnp.broadcast_to(gap.sum(axis=1, keepdims=True), gap.shape)
    weights = jnp.minimum(jnp.exp(jnp.clip(gap, -_MAX_LOG_RATIO, _MAX_LOG_RATIO)), cap)
    return jax.lax.stop_gradient(jnp.where(loss_mask, weights, 1.0))


def weight_stats(weights: jax.Array, loss_mask: jax.Array, cap: float) -> dict[str, jax.Array]:
    """What :func:`importance_weights` did, over the masked tokens.

    Args:
      weights: float32[B, T].
      loss_mask: bool[B, T].
      cap: of the weights.

    Returns:
      ``importance_mean`` and ``importance_capped_frac``, the share of the tokens whose weight was cut: float32[];
      1 and 0 where the mask is empty.
    """
    n = jnp.maximum(loss_mask.sum().astype(jnp.float32), 1.0)
    excess = jnp.where(loss_mask, weights - 1.0, 0.0)
    capped = (loss_mask & (weights >= cap)).astype(jnp.float32)
    return {"importance_mean": 1.0 + excess.sum() / n, "importance_capped_frac": capped.sum() / n}


def gap_stats(sampler_logps: jax.Array, old_logps: jax.Array, loss_mask: jax.Array) -> dict[str, jax.Array]:
    """Size of the gap |trainer - sampler| over the masked tokens.

    Args:
      sampler_logps, old_logps: float32[B, T], nats.
      loss_mask: bool[B, T].

    Returns:
      ``gap_mean``, ``gap_max``: float32[], nats; ``gap_ratio_mean``: mean of exp(trainer - sampler), 1 where they
      agree; ``gap_cut_frac``: share of the tokens whose gap reaches 20 nats, where it is cut. 0, 0, 1 and 0 where the
      mask is empty.

    Raises:
      ValueError: shapes that do not match.
    """
    gap = _gap(sampler_logps, old_logps, loss_mask)
    size, n = jnp.abs(gap), jnp.maximum(loss_mask.sum().astype(jnp.float32), 1.0)
    excess = jnp.exp(gap) - 1.0  # 0 off the mask
    return {
        "gap_mean": size.sum() / n,
        "gap_max": size.max(),
        "gap_ratio_mean": 1.0 + excess.sum() / n,
        "gap_cut_frac": (size >= _MAX_LOG_RATIO).astype(jnp.float32).sum() / n,
    }
