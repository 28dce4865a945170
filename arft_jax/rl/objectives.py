"""Losses over arrays: the policy loss of the GRPO family and the warm start's likelihood.

docs/objectives.md has the equations, the sources and the settings of each named objective.

A row holds one trajectory, or several as segments; what is said of a trajectory is then said of a segment. Every sum is
divided by a count that the caller may give (``n_tokens``, ``n_rows``), so that microbatches which get the counts of the
whole update add up to it: losses, gradients and stats, a stat whose name ends in ``_max`` by the maximum. Departure:

1. Log-ratios are cut at +-20 before ``exp``: an overflow in one token must not end a run.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from arft_jax.rl import corrections, segments
from arft_jax.words import AGGREGATIONS, IMPORTANCE_LEVELS, KL_ESTIMATORS, KL_PLACES, RATIOS, SURROGATES

_MAX_LOG_RATIO = 20.0
_LIKELY = -0.7  # nats: about one half


class PolicySettings(NamedTuple):
    """Static settings of the policy loss.

    Args:
      ratio: ρ = exp(logp - old_logp) of each ``token``; of its trajectory, ``sequence`` (the geometric mean of the
        tokens' ratios) or ``product``; ``sequence_token``: the value of ``sequence``, each token its own gradient.
      surrogate: ``clip``, or ``cispo``.
      epsilon_low, epsilon_high: clip bounds of the ratio, 1 - epsilon_low and 1 + epsilon_high.
      dual_clip: c, the bound of the gain where the advantage is negative; 0: none.
      aggregation: ``token``, ``sequence`` or ``constant``.
      divisor_len: tokens, the divisor of ``constant``.
      kl: ``k1``, ``k2`` or ``k3``, the estimator of the KL divergence to the reference.
      kl_in: ``loss``; or ``reward``, where the loss has no such term.
      beta: its weight.
      entropy_bonus: weight of the mean entropy.
      importance: ``none``, ``token`` or ``sequence``: weights for tokens that were sampled by another policy than the
        one whose log-probs are the ratio's ``old``: older weights, another kernel.
      importance_mode, importance_floor, importance_cap: of :func:`arft_jax.rl.corrections.importance_weights`.
    """

    ratio: str = "token"
    surrogate: str = "clip"
    epsilon_low: float = 0.2
    epsilon_high: float = 0.28
    dual_clip: float = 0.0
    aggregation: str = "token"
    divisor_len: int = 0
    kl: str = "k3"
    kl_in: str = "loss"
    beta: float = 0.0
    entropy_bonus: float = 0.0
    importance: str = "none"
    importance_mode: str = "truncate"
    importance_floor: float = 0.0
    importance_cap: float = 2.0


def _count(given: jax.Array | int | None, own: jax.Array) -> jax.Array:
    """float32[]: the caller's count, else our own; at least 1."""
    return jnp.maximum(own if given is None else jnp.asarray(given).astype(jnp.float32), 1.0)


def _masked(arrays: dict[str, jax.Array | None], loss_mask: jax.Array) -> dict[str, jax.Array | None]:
    """The arrays with 0 off the mask, whatever stands there, after a check of their shapes."""
    if loss_mask.ndim != 2 or loss_mask.dtype != jnp.bool_:
        raise ValueError(f"loss_mask must be bool[B, T]: got {loss_mask.dtype}{loss_mask.shape}")
    for name, array in arrays.items():
        if array is not None and array.shape != loss_mask.shape:
            raise ValueError(f"{name} must be of loss_mask's shape: got {array.shape} and {loss_mask.shape}")
    return {name: None if array is None else jnp.where(loss_mask, array, 0.0) for name, array in arrays.items()}


def _log_ratio(upper: jax.Array, lower: jax.Array) -> jax.Array:
    return jnp.clip(upper - lower, -_MAX_LOG_RATIO, _MAX_LOG_RATIO)


def kl_to_reference(logps: jax.Array, ref_logps: jax.Array, loss_mask: jax.Array, estimator: str = "k3") -> jax.Array:
    """An estimate of the KL divergence to the reference at each masked token; 0 elsewhere.

    With d = ref_logp - logp: k1 = -d, k2 = d² / 2, k3 = exp(d) - d - 1 (joschu.net/blog/kl-approx.html). Worked, policy
    1, reference 1/2: k1 = 0.6931, k2 = 0.2402, k3 = 0.1931.

    Args:
      logps, ref_logps: float32[..., T], nats.
      loss_mask: bool[..., T].
      estimator: ``k1``, ``k2`` or ``k3``.

    Raises:
      ValueError: an unknown estimator.
    """
    if estimator not in KL_ESTIMATORS:
        raise ValueError(f"kl must be one of {', '.join(KL_ESTIMATORS)}: got {estimator!r} (config.train.kl)")
    d = _log_ratio(jnp.where(loss_mask, ref_logps, 0.0), jnp.where(loss_mask, logps, 0.0))
    if estimator == "k1":
        return -d
    return 0.5 * jnp.square(d) if estimator == "k2" else jnp.exp(d) - d - 1.0


def aggregate_loss(
    values: jax.Array,
    loss_mask: jax.Array,
    aggregation: str,
    *,
    segment_ids: jax.Array | None = None,
    divisor_len: int = 0,
    n_tokens: jax.Array | int | None = None,
    n_rows: jax.Array | int | None = None,
) -> jax.Array:
    """Mean over masked tokens (``token``), over a trajectory's and then over trajectories (``sequence``), or
    the sum of a trajectory's divided by a constant, and the mean of that over trajectories (``constant``).

    Worked, values [[1, 3], [5, 0]], mask [[1, 1], [1, 0]]: token (1 + 3 + 5) / 3 = 3; sequence (2 + 5) / 2 = 3.5;
    constant with divisor_len 4: (4 / 4 + 5 / 4) / 2 = 1.125.

    Args:
      values: float32[B, T].
      loss_mask: bool[B, T]; a trajectory without a token counts nothing.
      aggregation: ``token``, ``sequence`` or ``constant``.
      segment_ids: int32[B, T], the trajectory of each token; None: each row is one.
      divisor_len: tokens, of ``constant``.
      n_tokens: denominator of ``token``; None: tokens of this mask.
      n_rows: denominator of the others; None: trajectories of this mask that have a token.

    Returns:
      float32[].

    Raises:
      ValueError: an unknown aggregation, or ``constant`` without a divisor.
    """
    _check_word("aggregation", aggregation, AGGREGATIONS)
    tokens = segments.n_tokens_of(loss_mask, segment_ids)
    sums = segments.segment_sums(values, loss_mask, segment_ids)
    if aggregation == "token":
        return sums.sum() / _count(n_tokens, tokens.sum())
    n_rows = _count(n_rows, (tokens > 0).sum().astype(jnp.float32))
    if aggregation == "sequence":
        return (sums / jnp.maximum(tokens, 1.0)).sum() / n_rows
    if divisor_len < 1:
        raise ValueError(
            f"divisor_len must be at least 1 where aggregation is constant: got {divisor_len} "
            "(config.train.divisor_len)"
        )
    return sums.sum() / (n_rows * divisor_len)


def policy_loss(
    logps: jax.Array,
    advantages: jax.Array,
    loss_mask: jax.Array,
    *,
    settings: PolicySettings,
    segment_ids: jax.Array | None = None,
    old_logps: jax.Array | None = None,
    on_policy: jax.Array | None = None,
    ref_logps: jax.Array | None = None,
    sampler_logps: jax.Array | None = None,
    entropy: jax.Array | None = None,
    n_tokens: jax.Array | int | None = None,
    n_rows: jax.Array | int | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """L = mean[-w S(ρ, A) + β KL] - η mean[H], with S(ρ, A) = min(ρ A, clip(ρ, 1 - ε_low, 1 + ε_high) A).

    Worked, one token, A = 1, ρ = 1.5, ε_high = 0.2: L = -min(1.5, 1.2) = -1.2, and no gradient.

    Args:
      logps: float32[B, T], nats, of the policy in training; ``logps[:, t]`` scores ``tokens[:, t]``.
      advantages: float32[B, T], of each token.
      loss_mask: bool[B, T], the policy's own tokens; nothing else is read, not even a NaN.
      settings: which loss.
      segment_ids: int32[B, T], the trajectory of each token, from 0 in each row; None: each row is one.
      old_logps: float32[B, T], nats, of the policy that sampled; None: ``stop_gradient(logps)``.
      on_policy: bool[], True: ``stop_gradient(logps)`` in place of ``old_logps``, which are not read. None: False.
      ref_logps, sampler_logps, entropy: float32[B, T], nats: of the reference, written while sampling, of the policy;
        only reported where ``beta``, ``importance``, ``entropy_bonus`` ask for no more.
      n_tokens, n_rows: tokens, and trajectories that have a token, of the whole update where this is a part.

    Returns:
      loss float32[]; stats of float32[]: ``clip_frac``, ``ratio_mean``, ``approx_kl`` (k3, old against new), ``kl_ref``
      (k3): sums over tokens divided by ``n_tokens``; ``ratio_max``; ``n_tokens`` of this mask; ``dual_clip_frac`` with
      ``dual_clip``; ``entropy`` where it is given; with ``sampler_logps`` those of
      :func:`arft_jax.rl.corrections.gap_stats`, with ``importance`` those of ``weight_stats``.

    Raises:
      ValueError: shapes that do not match, an unknown word, an array that the settings need and that is not given.
    """
    arrays = dict(logps=logps, advantages=advantages, old=old_logps, ref=ref_logps, sampler=sampler_logps)
    x = _masked(arrays | {"entropy": entropy}, loss_mask)
    _check_settings(settings, ref_logps, sampler_logps, entropy)
    x["old"] = _old(x["logps"], x["old"], on_policy)
    values, by_token, figures = _values(x, loss_mask, segment_ids, settings, n_tokens)
    loss = aggregate_loss(
        values, loss_mask, settings.aggregation, segment_ids=segment_ids, divisor_len=settings.divisor_len,
        n_tokens=n_tokens, n_rows=n_rows,
    )  # fmt: skip
    if settings.entropy_bonus:
        loss = loss - settings.entropy_bonus * aggregate_loss(x["entropy"], loss_mask, "token", n_tokens=n_tokens)
    return loss, _stats(by_token, loss_mask, n_tokens) | figures


def _old(logps: jax.Array, old_logps: jax.Array | None, on_policy: jax.Array | None) -> jax.Array:
    now = jax.lax.stop_gradient(logps)
    if old_logps is None:
        return now
    old_logps = jax.lax.stop_gradient(old_logps)
    return old_logps if on_policy is None else jnp.where(on_policy, now, old_logps)


def _values(
    x: dict[str, jax.Array | None],
    loss_mask: jax.Array,
    segment_ids: jax.Array | None,
    settings: PolicySettings,
    n_tokens: jax.Array | int | None,
) -> tuple[jax.Array, dict[str, jax.Array], dict[str, jax.Array]]:
    """(loss of each token float32[B, T], what else is summed by token, stats that are ready)."""
    logps, log_ratio = x["logps"], _log_ratio(x["logps"], x["old"])
    ratio = _ratio(log_ratio, logps, loss_mask, segment_ids, settings.ratio)
    gain, by_token = _surrogate(ratio, logps, x["advantages"], settings)
    weights, figures = _weights(x["sampler"], x["old"], loss_mask, segment_ids, settings, n_tokens)
    values = -gain if weights is None else -gain * weights
    by_token |= {"ratio_mean": ratio, "approx_kl": jnp.exp(log_ratio) - log_ratio - 1.0}
    by_token["kl_ref"] = jnp.zeros_like(logps)
    if x["ref"] is not None:
        reference = jax.lax.stop_gradient(x["ref"])
        by_token["kl_ref"] = kl_to_reference(logps, reference, loss_mask)
        if settings.beta and settings.kl_in == "loss":
            values = values + settings.beta * kl_to_reference(logps, reference, loss_mask, settings.kl)
    if x["entropy"] is not None:
        by_token["entropy"] = x["entropy"]
    figures["ratio_max"] = jax.lax.stop_gradient(jnp.where(loss_mask, ratio, 0.0).max())
    return values, by_token, figures


def _ratio(
    log_ratio: jax.Array, logps: jax.Array, loss_mask: jax.Array, segment_ids: jax.Array | None, kind: str
) -> jax.Array:
    """ρ of each token, float32[B, T]."""
    if kind == "token":
        return jnp.exp(log_ratio)
    whole = segments.segment_sums(log_ratio, loss_mask, segment_ids)
    if kind == "product":
        whole = jnp.clip(whole, -_MAX_LOG_RATIO, _MAX_LOG_RATIO)
    else:
        whole = whole / jnp.maximum(segments.n_tokens_of(loss_mask, segment_ids), 1.0)
    ratio = jnp.exp(segments.spread(whole, loss_mask, segment_ids))
    if kind == "sequence_token":
        ratio = jax.lax.stop_gradient(ratio) * jnp.exp(logps - jax.lax.stop_gradient(logps))
    return ratio


def _surrogate(
    ratio: jax.Array, logps: jax.Array, advantages: jax.Array, settings: PolicySettings
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """What each token is to gain, float32[B, T], and which tokens were clipped."""
    bounded = jnp.clip(ratio, 1.0 - settings.epsilon_low, 1.0 + settings.epsilon_high)
    if settings.surrogate == "cispo":
        gain = jax.lax.stop_gradient(bounded) * advantages * logps
        return gain, {"clip_frac": (bounded != ratio).astype(jnp.float32)}
    free, clipped = ratio * advantages, bounded * advantages
    gain, shares = jnp.minimum(free, clipped), {"clip_frac": (clipped < free).astype(jnp.float32)}
    if settings.dual_clip:
        least = settings.dual_clip * advantages
        is_cut = (advantages < 0) & (gain < least)
        gain, shares["dual_clip_frac"] = jnp.where(is_cut, least, gain), is_cut.astype(jnp.float32)
    return gain, shares


def _weights(
    sampler_logps: jax.Array | None,
    old: jax.Array,
    loss_mask: jax.Array,
    segment_ids: jax.Array | None,
    settings: PolicySettings,
    n_tokens: jax.Array | int | None,
) -> tuple[jax.Array | None, dict[str, jax.Array]]:
    """(importance weights float32[B, T], None where there are none; figures of the sampler)."""
    if sampler_logps is None:
        return None, {}
    figures = corrections.gap_stats(sampler_logps, old, loss_mask, n_tokens)
    if settings.importance == "none":
        return None, figures
    weights, is_beyond = corrections.importance_weights(
        sampler_logps, old, loss_mask, floor=settings.importance_floor, cap=settings.importance_cap,
        level=settings.importance, mode=settings.importance_mode, segment_ids=segment_ids,
    )  # fmt: skip
    return weights, figures | corrections.weight_stats(weights, is_beyond, loss_mask, n_tokens)


def _stats(
    by_token: dict[str, jax.Array], loss_mask: jax.Array, n_tokens: jax.Array | int | None
) -> dict[str, jax.Array]:
    means = {
        name: jax.lax.stop_gradient(aggregate_loss(values, loss_mask, "token", n_tokens=n_tokens))
        for name, values in by_token.items()
    }
    return means | {"n_tokens": loss_mask.sum().astype(jnp.float32)}


def _check_word(name: str, word: str, words: tuple[str, ...]) -> None:
    if word not in words:
        raise ValueError(f"{name} must be one of {', '.join(words)}: got {word!r} (config.train.{name})")


def _check_settings(
    settings: PolicySettings,
    ref_logps: jax.Array | None,
    sampler_logps: jax.Array | None,
    entropy: jax.Array | None,
) -> None:
    _check_word("ratio", settings.ratio, RATIOS)
    _check_word("surrogate", settings.surrogate, SURROGATES)
    _check_word("kl", settings.kl, KL_ESTIMATORS)
    _check_word("kl_in", settings.kl_in, KL_PLACES)
    _check_word("importance", settings.importance, ("none", *IMPORTANCE_LEVELS))
    needs = {
        "ref_logps": (ref_logps, "beta", settings.beta if settings.kl_in == "loss" else 0.0),
        "sampler_logps": (sampler_logps, "importance", "" if settings.importance == "none" else settings.importance),
        "entropy": (entropy, "entropy_bonus", settings.entropy_bonus),
    }
    for name, (array, key, value) in needs.items():
        if value and array is None:
            off = "none" if key == "importance" else 0
            raise ValueError(f"{name} must be given where {key} is not {off}: got {key}={value} (config.train.{key})")


def sft_loss(
    logps: jax.Array,
    loss_mask: jax.Array,
    *,
    entropy: jax.Array | None = None,
    n_tokens: jax.Array | int | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """L = -mean of logp over the masked tokens of the batch: the warm start on recorded chains.

    Args:
      logps: float32[B, T], nats.
      loss_mask: bool[B, T], the policy's own tokens.
      entropy: float32[B, T], nats, only reported.
      n_tokens: tokens of the whole update where this is a part.

    Returns:
      loss float32[], nats a token; stats of float32[]: ``nll`` (the loss), ``likely_frac``, the share of tokens of
      log-prob above -0.7, ``entropy`` where it is given: sums divided by ``n_tokens``; ``n_tokens`` of this mask.

    Raises:
      ValueError: shapes that do not match.
    """
    x = _masked({"logps": logps, "entropy": entropy}, loss_mask)
    loss = aggregate_loss(-x["logps"], loss_mask, "token", n_tokens=n_tokens)
    by_token = {"nll": -x["logps"], "likely_frac": (x["logps"] > _LIKELY).astype(jnp.float32)}
    if entropy is not None:
        by_token["entropy"] = x["entropy"]
    return loss, _stats(by_token, loss_mask, n_tokens)
