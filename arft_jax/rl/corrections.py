"""The gap between what sampled and what trains: how large it is, and weights that correct for it.

Truncated importance sampling: Ionides 2008, "Truncated Importance Sampling", equation 2; for language models by
token, E = min(exp(old_logp - sampler_logp), cap), as in https://fengyao.notion.site/off-policy-rl. Masked importance
sampling: tokens whose ratio leaves [floor, cap] weigh 0 (IcePop, https://ringtech.notion.site/icepop); by sequence the
ratio is that of the whole trajectory. Departure:

1. A token's gap is cut at +-20 nats: under top-k or top-p newer weights may give a token of older ones probability 0,
   about -1e30 nats, which as a figure would hide every other token. Such tokens are counted.
"""

import jax
import jax.numpy as jnp

from arft_jax.rl import segments
from arft_jax.words import IMPORTANCE_LEVELS, IMPORTANCE_MODES

_MAX_LOG_RATIO = 20.0


def _gap(sampler_logps: jax.Array, old_logps: jax.Array, loss_mask: jax.Array) -> jax.Array:
    """float32[B, T]: trainer - sampler, nats, cut at +-20; 0 off the mask."""
    for name, array in (("sampler_logps", sampler_logps), ("old_logps", old_logps)):
        if array.shape != loss_mask.shape:
            raise ValueError(f"{name} must be of loss_mask's shape: got {array.shape} and {loss_mask.shape}")
    gap = jnp.where(loss_mask, old_logps, 0.0) - jnp.where(loss_mask, sampler_logps, 0.0)
    return jnp.clip(gap, -_MAX_LOG_RATIO, _MAX_LOG_RATIO)


def importance_weights(
    sampler_logps: jax.Array,
    old_logps: jax.Array,
    loss_mask: jax.Array,
    *,
    floor: float = 0.0,
    cap: float = 2.0,
    level: str = "token",
    mode: str = "truncate",
    segment_ids: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """w = clip(exp(old_logp - sampler_logp), floor, cap), or 0 beyond floor and cap; constants to a gradient.

    Worked, cap 2: a token sampled at probability 0.2 that the trainer gives 0.3 weighs 1.5; given 0.9, 2, and 0 where
    the mode is ``mask``.

    Args:
      sampler_logps: float32[B, T], nats, written while sampling.
      old_logps: float32[B, T], nats, the trainer's forward over the weights that sampled.
      loss_mask: bool[B, T].
      floor, cap: smallest and largest weight; 0 <= floor < cap.
      level: ``token``; or ``sequence``: the ratio of the whole trajectory on each of its tokens.
      mode: ``truncate``, or ``mask``.
      segment_ids: int32[B, T], the trajectory of each token; None: each row is one.

    Returns:
      weights float32[B, T], 1 off the mask; bool[B, T], the masked tokens whose ratio lay beyond floor or cap.

    Raises:
      ValueError: shapes that do not match, bounds out of order, an unknown level or mode.
    """
    if not 0 <= floor < cap:
        raise ValueError(f"floor must be at least 0 and below cap: got floor={floor}, cap={cap}")
    for name, word, words in (("level", level, IMPORTANCE_LEVELS), ("mode", mode, IMPORTANCE_MODES)):
        if word not in words:
            raise ValueError(f"{name} must be one of {', '.join(words)}: got {word!r}")
    gap = _gap(sampler_logps, old_logps, loss_mask)
    if level == "sequence":
        gap = segments.spread(segments.segment_sums(gap, loss_mask, segment_ids), loss_mask, segment_ids)
    ratio = jnp.exp(jnp.clip(gap, -_MAX_LOG_RATIO, _MAX_LOG_RATIO))
    is_beyond = loss_mask & ((ratio > cap) | (ratio < floor))
    weights = jnp.clip(ratio, floor, cap) if mode == "truncate" else jnp.where(is_beyond, 0.0, ratio)
    return jax.lax.stop_gradient(jnp.where(loss_mask, weights, 1.0)), is_beyond


def weight_stats(
    weights: jax.Array, is_beyond: jax.Array, loss_mask: jax.Array, n_tokens: jax.Array | int | None = None
) -> dict[str, jax.Array]:
    """What :func:`importance_weights` did, over the masked tokens.

    Args:
      weights, is_beyond: float32 and bool[B, T], as it returned them.
      loss_mask: bool[B, T].
      n_tokens: tokens of the full batch where this is a microbatch.

    Returns:
      ``importance_mean`` and ``importance_capped_frac``, the share of the tokens whose ratio lay beyond floor or cap:
      float32[]; 0 where the mask is empty.
    """
    n = _count(loss_mask, n_tokens)
    capped = is_beyond.astype(jnp.float32)
    return {
        "importance_mean": jnp.where(loss_mask, weights, 0.0).sum() / n,
        "importance_capped_frac": capped.sum() / n,
    }


def _count(loss_mask: jax.Array, n_tokens: jax.Array | int | None) -> jax.Array:
    count = loss_mask.sum() if n_tokens is None else jnp.asarray(n_tokens)
    return jnp.maximum(count.astype(jnp.float32), 1.0)


def gap_stats(
    sampler_logps: jax.Array, old_logps: jax.Array, loss_mask: jax.Array, n_tokens: jax.Array | int | None = None
) -> dict[str, jax.Array]:
    """Size of the gap |trainer - sampler| over the masked tokens.

    Args:
      sampler_logps, old_logps: float32[B, T], nats.
      loss_mask: bool[B, T].
      n_tokens: tokens of the full batch where this is a microbatch.

    Returns:
      ``gap_mean``, ``gap_max``: float32[], nats; ``gap_ratio_mean``: mean of exp(trainer - sampler), 1 where they
      agree; ``gap_cut_frac``: share of the tokens whose gap reaches 20 nats, where it is cut. All 0 where the mask is
      empty.

    Raises:
      ValueError: shapes that do not match.
    """
    gap = _gap(sampler_logps, old_logps, loss_mask)
    size, n = jnp.abs(gap), _count(loss_mask, n_tokens)
    return {
        "gap_mean": size.sum() / n,
        "gap_max": size.max(),
        "gap_ratio_mean": jnp.where(loss_mask, jnp.exp(gap), 0.0).sum() / n,
        "gap_cut_frac": (size >= _MAX_LOG_RATIO).astype(jnp.float32).sum() / n,
    }
