"""Log-probability of each token and entropy of each step, in chunks over T.

log π(y_t | y_<t) as every policy-gradient objective needs it (arXiv 2402.03300, eq. 3). The logits of one
chunk exist at a time, forward and backward: memory B * chunk * V in place of B * T * V.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from arft_jax.ops.shapes import check_axes


def token_logps(
    hidden: jax.Array,
    unembed: Callable[[jax.Array], jax.Array],
    tokens: jax.Array,
    log_probs: Callable[[jax.Array], jax.Array],
    chunk: int,
    *,
    source: jax.Array | None = None,
    mask: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """logps[:, t] scores tokens[:, t] by the distribution that hidden[:, t - 1] gives.

    Column 0 has no predecessor and is 0. With tokens [7, 5, 9], logps are [0, log p(5 | 7), log p(9 | 7, 5)].

    Args:
      hidden: float[B, T, D], after the final norm.
      unembed: hidden float[..., D] -> logits float32[..., V].
      tokens: int32[B, T].
      log_probs: logits float32[..., V] -> log-probabilities float32[..., V], the sampler's own
        distribution (temperature, banned tokens); -inf is allowed at tokens that cannot be drawn.
      chunk: positions a step, at least 1.

    Returns:
      logps float32[B, T], nats; entropy float32[B, T], nats, of the distribution that scored the token.

    Raises:
      ValueError: shapes do not fit or chunk < 1.
    """
    if source is not None:
        taken = jnp.take_along_axis(hidden, jnp.maximum(source, 0)[:, :, None], axis=1)
        a, b = token_logps(jnp.concatenate([taken[:, 1:], taken[:, :1]], axis=1), unembed, tokens, log_probs, chunk)
        return jnp.where(mask, a, 0.0), jnp.where(mask, b, 0.0)
    sizes = check_axes(hidden=(hidden, "BTD"), tokens=(tokens, "BT"))
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1: got chunk={chunk}")
    n_rows, length = sizes["B"], sizes["T"]
    chunk = min(chunk, max(length - 1, 1))
    n_chunks = -(-(length - 1) // chunk)
    if n_chunks == 0:
        return jnp.zeros((n_rows, length), jnp.float32), jnp.zeros((n_rows, length), jnp.float32)
    pad = n_chunks * chunk - (length - 1)
    before = jnp.pad(hidden[:, :-1], ((0, 0), (0, pad), (0, 0))).reshape(n_rows, n_chunks, chunk, -1)
    targets = jnp.pad(tokens[:, 1:], ((0, 0), (0, pad))).reshape(n_rows, n_chunks, chunk)

    @jax.checkpoint
    def score(args: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        states, target = args
        values = log_probs(unembed(states))
        # Compare and reduce: a gather here would be a scatter in the backward pass.
        hit = target[..., None] == jnp.arange(values.shape[-1], dtype=target.dtype)[None, None, :]
        picked = jnp.where(hit, values, 0.0).sum(axis=-1)
        finite = jnp.where(jnp.isneginf(values), 0.0, values)
        entropy = -jnp.where(jnp.isneginf(values), 0.0, jnp.exp(finite) * finite).sum(axis=-1)
        return picked, entropy

    scored = jax.lax.map(score, (jnp.moveaxis(before, 1, 0), jnp.moveaxis(targets, 1, 0)))

    def join(pieces: jax.Array) -> jax.Array:
        flat = jnp.moveaxis(pieces, 0, 1).reshape(n_rows, n_chunks * chunk)[:, : length - 1]
        return jnp.pad(flat, ((0, 0), (1, 0)))

    return join(scored[0]), join(scored[1])
