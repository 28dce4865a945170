"""Log-probability of each token and entropy of each step, of the scored positions alone, chunk by chunk.

log π(y_t | y_<t) as every policy-gradient objective needs it (arXiv 2402.03300, eq. 3). Positions that are not scored
(prompts, observations, padding) never meet the vocabulary. The logits of one chunk exist at a time, forward and
backward: memory chunk * V in place of B * T * V. The forward pass reads them for their maximum and then once for
the sum of exponentials and the entropy; the backward pass, given that sum, reads them once.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from arft_jax.ops.shapes import check_axes


class Exchange(NamedTuple):
    """How the unembedding is held: gathered once before the chunks, its gradient given back once behind them.

    Args:
      gather: a device's shard of the kernel -> the whole kernel.
      scatter: a device's gradient of the whole kernel, float32 -> the sum over devices, of its shard.
    """

    gather: Callable[[jax.Array], jax.Array] = lambda kernel: kernel
    scatter: Callable[[jax.Array], jax.Array] = lambda gradient: gradient


ON_ONE_DEVICE = Exchange()


class _Functions(NamedTuple):
    unembed: Callable[[jax.Array, jax.Array], jax.Array]
    scores: Callable[[jax.Array, jax.Array], jax.Array]
    exchange: Exchange


class _Chunks(NamedTuple):
    """The scored positions of all rows, one after another; only the last of the chunks that are used has gaps."""

    states: jax.Array  # float[n, chunk, D]
    targets: jax.Array  # int32[n, chunk]
    is_scored: jax.Array  # bool[n, chunk]


def token_logps(
    hidden: jax.Array,
    kernel: jax.Array,
    tokens: jax.Array,
    allowed: jax.Array,
    *,
    unembed: Callable[[jax.Array, jax.Array], jax.Array],
    scores: Callable[[jax.Array, jax.Array], jax.Array],
    chunk: int,
    source: jax.Array | None = None,
    mask: jax.Array | None = None,
    exchange: Exchange = ON_ONE_DEVICE,
) -> tuple[jax.Array, jax.Array]:
    """logps[:, t] scores tokens[:, t] by the distribution that hidden[:, source[:, t]] gives.

    Without ``source`` that is the token before, and column 0, which has none, is 0: with tokens [7, 5, 9], logps are
    [0, log p(5 | 7), log p(9 | 7, 5)].

    Args:
      hidden: float[B, T, D], after the final norm.
      kernel: float[D, V], the unembedding in the type of the parameters; of it the shard that ``exchange`` gathers.
      tokens: int32[B, T].
      allowed: bool[V], False for tokens never sampled.
      unembed: (hidden float[..., D], kernel) -> logits float32[..., V].
      scores: (logits float32[..., V], allowed) -> float32[..., V] whose softmax is the sampler's own distribution
        (temperature, banned tokens); -inf is allowed at tokens that cannot be drawn.
      chunk: positions, of all rows together, that are scored in one step, at least 1.
      source: int32[B, T], the column whose hidden state scores the token; negative: none, the token is not scored.
        Several tokens may name one column.
      mask: bool[B, T], the positions that are scored; None: all.
      exchange: where the kernel is split over devices.

    Returns:
      logps float32[B, T], nats; entropy float32[B, T], nats, of the distribution that scored the token. Both are 0
      where nothing is scored.

    Raises:
      ValueError: shapes do not fit or chunk < 1.
    """
    sizes = check_axes(hidden=(hidden, "BTD"), tokens=(tokens, "BT"))
    given = {name: (x, "BT") for name, x in (("source", source), ("mask", mask)) if x is not None}
    check_axes(tokens=(tokens, "BT"), **given)
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1: got chunk={chunk}")
    n_rows, length = sizes["B"], sizes["T"]
    most = n_rows * (length - 1 if source is None else length)  # positions that can be scored
    if most == 0:
        return jnp.zeros((n_rows, length), jnp.float32), jnp.zeros((n_rows, length), jnp.float32)
    if source is None:
        source = jnp.broadcast_to(jnp.arange(-1, length - 1, dtype=jnp.int32), (n_rows, length))
    is_scored = source >= 0 if mask is None else mask & (source >= 0)
    chunk = min(chunk, most)
    chunks = _compact(hidden, tokens, source, is_scored, chunk, -(-most // chunk))
    scored = _score_chunks(_Functions(unembed, scores, exchange), kernel, chunks, allowed)
    places = jnp.maximum(jnp.cumsum(is_scored.reshape(-1), dtype=jnp.int32) - 1, 0).reshape(n_rows, length)
    logps, entropy = (jnp.where(is_scored, values.reshape(-1)[places], 0.0) for values in scored)
    return logps, entropy


def _compact(
    hidden: jax.Array, tokens: jax.Array, source: jax.Array, is_scored: jax.Array, chunk: int, n_chunks: int
) -> _Chunks:
    n_rows, length = tokens.shape
    shape, size = (n_chunks, chunk), n_chunks * chunk
    flat = is_scored.reshape(-1)
    at = jnp.nonzero(flat, size=size, fill_value=0)[0].astype(jnp.int32)
    column = jnp.maximum(source.reshape(-1)[at], 0)
    states = hidden.reshape(n_rows * length, -1)[at // length * length + column]
    is_used = jnp.arange(size) < flat.sum()
    return _Chunks(states.reshape(*shape, -1), tokens.reshape(-1)[at].reshape(shape), is_used.reshape(shape))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _score_chunks(
    functions: _Functions, kernel: jax.Array, chunks: _Chunks, allowed: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(logps, entropy), each float32[n, chunk], 0 where nothing is scored."""
    return _forward(functions, _gathered(functions, kernel, chunks), chunks, allowed)[:2]


def _gathered(functions: _Functions, kernel: jax.Array, chunks: _Chunks) -> jax.Array:
    """The whole kernel in the compute type: that type is what is sent."""
    return functions.exchange.gather(kernel.astype(chunks.states.dtype))


def _forward(functions: _Functions, whole: jax.Array, chunks: _Chunks, allowed: jax.Array) -> tuple[jax.Array, ...]:
    """(logps, entropy, log of the sum of exponentials), each float32[n, chunk]; an unused chunk costs nothing."""

    def score(states: jax.Array, targets: jax.Array) -> tuple[jax.Array, ...]:
        values = functions.scores(functions.unembed(states, whole), allowed)
        top = values.max(axis=-1, keepdims=True)
        below = values - top
        weights = jnp.exp(below)
        total = weights.sum(axis=-1)
        mean = jnp.where(weights > 0, weights * below, 0.0).sum(axis=-1) / total
        picked = jnp.take_along_axis(below, targets[..., None], axis=-1)[..., 0]
        return picked - jnp.log(total), jnp.log(total) - mean, jnp.log(total) + top[..., 0]

    def skip(states: jax.Array, targets: jax.Array) -> tuple[jax.Array, ...]:
        return (jnp.zeros(targets.shape, jnp.float32),) * 3

    def step(_: None, one: _Chunks) -> tuple[None, tuple[jax.Array, ...]]:
        return None, jax.lax.cond(one.is_scored.any(), score, skip, one.states, one.targets)

    logps, entropy, log_total = jax.lax.scan(step, None, chunks)[1]
    return jnp.where(chunks.is_scored, logps, 0.0), jnp.where(chunks.is_scored, entropy, 0.0), log_total


def _score_forward(functions, kernel, chunks, allowed):
    # The arguments tell whether a gradient with respect to them is wanted: none is computed for a frozen kernel.
    kept = jnp.zeros((), kernel.value.dtype) if kernel.perturbed else None
    kernel, allowed = kernel.value, allowed.value
    chunks = jax.tree.map(lambda leaf: leaf.value, chunks, is_leaf=lambda leaf: hasattr(leaf, "perturbed"))
    whole = _gathered(functions, kernel, chunks)
    logps, entropy, log_total = _forward(functions, whole, chunks, allowed)
    return (logps, entropy), (kept, whole, chunks, allowed, entropy, log_total)


def _score_backward(functions, residuals, gradients):
    """With p the distribution, H its entropy and y the token: ∂log p_y/∂s = 1_y - p, ∂H/∂s = -p (log p + H)."""
    kept, whole, chunks, allowed, entropy, log_total = residuals
    to_logps, to_entropy = (
        jnp.zeros(chunks.targets.shape, jnp.float32) if isinstance(g, SymbolicZero) else g for g in gradients
    )
    with_entropy = not isinstance(gradients[1], SymbolicZero)

    def pull(one, to_logp, to_entropy, entropy, log_total):
        def values_of(states, kernel):
            return functions.scores(functions.unembed(states, kernel), allowed)

        if kept is None:
            values, back = jax.vjp(lambda states: values_of(states, whole), one.states)
        else:  # float32 so that the gradient is; the compute type's values all the same
            values, back = jax.vjp(values_of, one.states, whole.astype(jnp.float32))
        logp = values - log_total[..., None]
        weight = jnp.broadcast_to(to_logp[..., None], logp.shape)
        if with_entropy:
            weight = weight + to_entropy[..., None] * (jnp.where(jnp.isneginf(logp), 0.0, logp) + entropy[..., None])
        # Compare, for a scatter would be a second pass.
        ids = jnp.arange(values.shape[-1], dtype=one.targets.dtype).reshape((1,) * one.targets.ndim + (-1,))
        hit = jnp.where(one.targets[..., None] == ids, to_logp[..., None], 0.0)
        return back(hit - jnp.exp(logp) * weight)

    def step(to_kernel, scanned):
        one, *numbers = scanned

        def add(to_kernel):
            to_states, *more = pull(one, *numbers)
            return (None if kept is None else to_kernel + more[0]), to_states

        def skip(to_kernel):
            return to_kernel, jnp.zeros_like(one.states)

        return jax.lax.cond(one.is_scored.any(), add, skip, to_kernel)

    first = None if kept is None else jnp.zeros(whole.shape, jnp.float32)
    is_scored = chunks.is_scored
    to_logps, to_entropy = (jnp.where(is_scored, g, 0.0) for g in (to_logps, to_entropy))
    to_kernel, to_states = jax.lax.scan(step, first, (chunks, to_logps, to_entropy, entropy, log_total))
    if kept is not None:
        to_kernel = functions.exchange.scatter(to_kernel).astype(kept.dtype)
    return to_kernel, _Chunks(to_states, None, None), None


_score_chunks.defvjp(_score_forward, _score_backward, symbolic_zeros=True)
