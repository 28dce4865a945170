"""Losses over arrays: the GRPO family's policy loss and the warm start's likelihood.

GRPO (arXiv 2402.03300), equations 3 and 4; asymmetric clipping and the token mean from DAPO (arXiv 2503.14476),
equations 8 and 10-12; the mean over a row's tokens and then over rows from Visual-ARFT (arXiv 2505.14246).

Every sum is divided by a count that the caller may give (``n_tokens``, ``n_rows``), so that microbatches which get the
counts of the full batch add up, losses, gradients and stats alike, to the full batch. Departure:

1. Log-ratios are cut at +-20 before ``exp``: an overflow in one token must not end a run.
"""

import jax
import jax.numpy as jnp

from arft_jax.words import AGGREGATIONS

EPSILON_LOW, EPSILON_HIGH = 0.2, 0.28  # clip bounds where none are given; config.train has the same
_MAX_LOG_RATIO = 20.0


def _count(given: jax.Array | int | None, own: jax.Array) -> jax.Array:
    """float32[]: the caller's count, else our own; at least 1."""
    return jnp.maximum(own if given is None else jnp.asarray(given).astype(jnp.float32), 1.0)


def _check(arrays: dict[str, jax.Array | None], loss_mask: jax.Array) -> None:
    if loss_mask.ndim != 2 or loss_mask.dtype != jnp.bool_:
        raise ValueError(f"loss_mask must be bool[B, T]: got {loss_mask.dtype}{loss_mask.shape}")
    for name, array in arrays.items():
        if array is not None and array.shape != loss_mask.shape:
            raise ValueError(f"{name} must be of loss_mask's shape: got {array.shape} and {loss_mask.shape}")


def _log_ratio(upper: jax.Array, lower: jax.Array, mask: jax.Array) -> jax.Array:
    """float32[B, T]: upper - lower where the mask is True, cut at +-20; 0 elsewhere, whatever stands there."""
    difference = jnp.where(mask, upper, 0.0) - jnp.where(mask, lower, 0.0)
    return jnp.clip(difference, -_MAX_LOG_RATIO, _MAX_LOG_RATIO)


def _k3(log_ratio: jax.Array) -> jax.Array:
    """exp(d) - d - 1 >= 0: Schulman's k3 estimate of a KL divergence (joschu.net/blog/kl-approx.html)."""
    return jnp.exp(log_ratio) - log_ratio - 1.0


def aggregate_loss(
    values: jax.Array,
    loss_mask: jax.Array,
    aggregation: str,
    *,
    n_tokens: jax.Array | int | None = None,
    n_rows: jax.Array | int | None = None,
) -> jax.Array:
    """Mean over masked tokens (``token``), or over a row's tokens and then over rows (``sequence``).

    Worked, values [[1, 3], [5, 0]], mask [[1, 1], [1, 0]]: token (1 + 3 + 5) / 3 = 3; sequence (2 + 5) / 2 = 3.5.

    Args:
      values: float32[B, T].
      loss_mask: bool[B, T]; a row without a token counts nothing.
      aggregation: ``token`` or ``sequence``.
      n_tokens: denominator of ``token``; None: tokens of this mask.
      n_rows: denominator of ``sequence``; None: rows of this mask that have a token.

    Returns:
      float32[].

    Raises:
      ValueError: an unknown aggregation.
    """
    if aggregation not in AGGREGATIONS:
        raise ValueError(
            f"aggregation must be one of {', '.join(AGGREGATIONS)}: got {aggregation!r} (config.train.aggregation)"
        )
    values = jnp.where(loss_mask, values, 0.0)
    row_tokens = loss_mask.sum(axis=1).astype(jnp.float32)
    if aggregation == "token":
        return values.sum() / _count(n_tokens, row_tokens.sum())
    row_means = values.sum(axis=1) / jnp.maximum(row_tokens, 1.0)
    return row_means.sum() / _count(n_rows, (row_tokens > 0).sum().astype(jnp.float32))


def policy_loss(
    logps: jax.Array,
    old_logps: jax.Array | None,
    advantages: jax.Array,
    loss_mask: jax.Array,
    *,
    epsilon_low: float | None = EPSILON_LOW,
    epsilon_high: float | None = EPSILON_HIGH,
    beta: float = 0.0,
    ref_logps: jax.Array | None = None,
    weights: jax.Array | None = None,
    aggregation: str = "token",
    n_tokens: jax.Array | int | None = None,
    n_rows: jax.Array | int | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """L = mean[-w min(ρ A, clip(ρ, 1 - ε_low, 1 + ε_high) A) + β k3], ρ = exp(logp - old_logp).

    k3 = exp(ref_logp - logp) - (ref_logp - logp) - 1. Worked, one token, A = 1, ρ = 1.5, ε_high = 0.2:
    L = -min(1.5, 1.2) = -1.2, and no gradient.

    Args:
      logps: float32[B, T], nats, of the policy in training; ``logps[:, t]`` scores ``tokens[:, t]``.
      old_logps: float32[B, T], nats, of the policy that sampled; None: ``stop_gradient(logps)``, one update a batch
        as in Visual-ARFT.
      advantages: float32[B].
      loss_mask: bool[B, T], the policy's own tokens; nothing else is read, not even a NaN.
      epsilon_low, epsilon_high: clip bounds below and above 1; None: no clipping on that side.
      beta: weight of the KL divergence to the reference.
      ref_logps: float32[B, T], nats, of the reference; with ``beta`` 0 they are only reported.
      weights: float32[B, T], factors on the policy term, constants (see :mod:`arft_jax.rl.corrections`).
      aggregation: ``token`` (all tokens alike) or ``sequence`` (rows alike, the paper's).
      n_tokens, n_rows: tokens, and rows that have a token, of the full batch where this is a microbatch.

    Returns:
      loss float32[]; stats of float32[]: ``clip_frac``, ``ratio_mean``, ``approx_kl`` (k3, old against new), ``kl_ref``:
      sums over tokens divided by ``n_tokens``, which add over microbatches; ``ratio_max`` (take the maximum over
      microbatches); ``n_tokens`` of this mask.

    Raises:
      ValueError: shapes that do not match, ``beta`` without ``ref_logps``, an unknown aggregation.
    """
    _check({"logps": logps, "old_logps": old_logps, "ref_logps": ref_logps, "weights": weights}, loss_mask)
    _check_policy(advantages, loss_mask, beta, ref_logps)
    old_logps = jax.lax.stop_gradient(logps if old_logps is None else old_logps)
    log_ratio = _log_ratio(logps, old_logps, loss_mask)
    ratio = jnp.exp(log_ratio)
    low = 0.0 if epsilon_low is None else 1.0 - epsilon_low
    high = jnp.inf if epsilon_high is None else 1.0 + epsilon_high
    gain = advantages[:, None]
    clipped, free = jnp.clip(ratio, low, high) * gain, ratio * gain
    values = -jnp.minimum(free, clipped)
    if weights is not None:
        values = values * jax.lax.stop_gradient(jnp.where(loss_mask, weights, 0.0))
    kl_ref = _kl_to(ref_logps, logps, loss_mask)
    if beta:
        values = values + beta * kl_ref
    loss = aggregate_loss(values, loss_mask, aggregation, n_tokens=n_tokens, n_rows=n_rows)
    is_clipped = (clipped < free).astype(jnp.float32)
    by_token = {"clip_frac": is_clipped, "ratio_mean": ratio, "approx_kl": _k3(log_ratio), "kl_ref": kl_ref}
    return loss, _stats(by_token, ratio, loss_mask, n_tokens)


def _kl_to(ref_logps: jax.Array | None, logps: jax.Array, loss_mask: jax.Array) -> jax.Array:
    """k3 of each token, float32[B, T]; 0 without a reference."""
    if ref_logps is None:
        return jnp.zeros_like(logps)
    return _k3(_log_ratio(jax.lax.stop_gradient(ref_logps), logps, loss_mask))


def _check_policy(advantages: jax.Array, loss_mask: jax.Array, beta: float, ref_logps: jax.Array | None) -> None:
    if advantages.shape != loss_mask.shape[:1]:
        raise ValueError(f"advantages must be float32[B]: got {advantages.shape} for a mask of {loss_mask.shape}")
    if beta and ref_logps is None:
        raise ValueError(f"ref_logps must be given where beta is not 0: got beta={beta} (config.train.beta)")


def _stats(by_token: dict[str, jax.Array], ratio, loss_mask, n_tokens) -> dict[str, jax.Array]:
    """Means of float32[B, T] over the masked tokens, the largest ratio, and how many tokens the mask has."""
    means = {
        name: jax.lax.stop_gradient(aggregate_loss(values, loss_mask, "token", n_tokens=n_tokens))
        for name, values in by_token.items()
    }
    return means | {
        "ratio_max": jax.lax.stop_gradient(jnp.where(loss_mask, ratio, 0.0).max()),
        "n_tokens": loss_mask.sum().astype(jnp.float32),
    }


def sft_loss(logps: jax.Array, loss_mask: jax.Array, *, n_tokens: jax.Array | int | None = None) -> jax.Array:
    """L = -mean of logp over the masked tokens of the batch: the warm start on recorded chains.

    Args:
      logps: float32[B, T], nats.
      loss_mask: bool[B, T], the policy's own tokens.
      n_tokens: tokens of the full batch where this is a microbatch.

    Returns:
      float32[], nats a token.

    Raises:
      ValueError: shapes that do not match.
    """
    _check({"logps": logps}, loss_mask)
    return aggregate_loss(-logps, loss_mask, "token", n_tokens=n_tokens)
