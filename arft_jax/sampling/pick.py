"""The distribution that is sampled from, its log-probabilities, and the pick itself.

Sampler and trainer both call :func:`log_probs`, so that the log-prob of what was picked is one number. Order:
control tokens are banned, then temperature, then top-k, then top-p (nucleus sampling, arXiv 1904.09751), then
renormalised. The pick inverts the distribution function with a key of its own for every row: two uniform numbers a
token where the Gumbel-max trick takes V, which on a CPU costs as much as a third of the model.
"""

import jax
import jax.numpy as jnp

# stands for log 0: finite, so that no gradient is NaN, and far below anything that noise can lift
LOG_ZERO = -1e30
_BLOCK = 128  # tokens of one block of the pick


def row_keys(rng: jax.Array, task_ids: jax.Array, rows: jax.Array, positions: jax.Array) -> jax.Array:
    """key = fold_in(fold_in(fold_in(rng, task), row), position): one for each token drawn.

    A row's keys depend on nothing that shares its batch, nor on pauses or restarts.

    Args:
      rng: one key, typed or uint32[2].
      task_ids: int32[B], one number a task.
      rows: int32[B], 0 .. G-1 in the group.
      positions: int32[B], token positions.

    Returns:
      keys [B].

    Raises:
      ValueError: the shapes differ.
    """
    if not task_ids.shape == rows.shape == positions.shape or task_ids.ndim != 1:
        raise ValueError(
            f"task_ids, rows and positions must be int32[B]: got {task_ids.shape}, {rows.shape}, {positions.shape}"
        )

    def key_of(task: jax.Array, row: jax.Array, position: jax.Array) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(rng, task), row), position)

    return jax.vmap(key_of)(task_ids, rows, positions)


def _check(logits: jax.Array, allowed: jax.Array, temperature: float, top_k: int, top_p: float) -> None:
    if allowed.shape != logits.shape[-1:] or allowed.dtype != jnp.bool_:
        raise ValueError(f"allowed must be bool[V] for V={logits.shape[-1]}: got {allowed.dtype}{allowed.shape}")
    if temperature < 0:
        raise ValueError(f"temperature must be at least 0: got {temperature} (config.rollout.temperature)")
    if top_k < 0:
        raise ValueError(f"top_k must be at least 0 (0 is off): got {top_k} (config.rollout.top_k)")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1] (1 is off): got {top_p} (config.rollout.top_p)")


def _keep_top_p(logits: jax.Array, top_p: float | jax.Array) -> jax.Array:
    """bool[..., V]: the likeliest tokens whose mass first reaches top_p, and all that tie with the last of them."""
    probs = jax.nn.softmax(logits, axis=-1)
    ordered = -jnp.sort(-probs, axis=-1)
    inside = jnp.cumsum(ordered, axis=-1) - ordered < top_p
    last = jnp.where(inside, ordered, jnp.inf).min(axis=-1, keepdims=True)
    return probs >= last


def log_probs(
    logits: jax.Array, allowed: jax.Array, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> jax.Array:
    """log p of the distribution that :func:`pick` draws from.

    Worked, V = 3, the last token banned, temperature 1, logits [0, log 3, 9]: p = [1/4, 3/4, 0].

    Args:
      logits: float32[..., V].
      allowed: bool[V], False for tokens never sampled; at least one is True.
      temperature: divides the logits; 0 (greedy) is read as 1 here, so that a log-prob is still defined.
      top_k: keeps the k likeliest and ties with the last; 0 is off.
      top_p: keeps the likeliest until their mass reaches this, and ties with the last; 1 is off.

    Returns:
      float32[..., V], nats; about -1e30 (:data:`LOG_ZERO`) where p = 0, with no gradient there.

    Raises:
      ValueError: an ``allowed`` that is not bool[V], or a setting out of range.
    """
    return jax.nn.log_softmax(scores(logits, allowed, temperature, top_k, top_p), axis=-1)


def scores(
    logits: jax.Array, allowed: jax.Array, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> jax.Array:
    """float32[..., V] whose softmax is the distribution of :func:`log_probs`; :data:`LOG_ZERO` where p = 0.

    Arguments and errors are those of :func:`log_probs`.
    """
    _check(logits, allowed, temperature, top_k, top_p)
    logits = logits.astype(jnp.float32)
    if temperature not in (0.0, 1.0):
        logits = logits * (1.0 / temperature)
    allowed = allowed.reshape((1,) * (logits.ndim - 1) + allowed.shape)
    logits = jnp.where(allowed, logits, LOG_ZERO)
    if 0 < top_k < logits.shape[-1]:
        fixed = jax.lax.stop_gradient(logits)
        kth = jax.lax.top_k(fixed, top_k)[0][..., -1:]
        logits = jnp.where((fixed >= kth) & allowed, logits, LOG_ZERO)
    if top_p < 1.0:
        keep = _keep_top_p(jax.lax.stop_gradient(logits), top_p)
        logits = jnp.where(keep & allowed, logits, LOG_ZERO)
    return logits


def first_above(weights: jax.Array, uniform: jax.Array) -> jax.Array:
    """int32[B]: the first i with weights[: i + 1].sum() > uniform * weights.sum(), and weights[i] > 0.

    Example: weights [1, 0, 3], uniform 0.25: 2, for the first sum above 1 is the last. A parallel sum may fall or rise
    by its rounding where a weight is 0: the second condition keeps that from choosing it.

    Args:
      weights: float32[B, n], none negative, one above 0.
      uniform: float32[B] in [0, 1).
    """
    sums = jnp.cumsum(weights, axis=-1)
    above = (sums > uniform[:, None] * sums[:, -1:]) & (weights > 0)
    likeliest = jnp.argmax(weights, axis=-1)
    return jnp.where(above.any(axis=-1), jnp.argmax(above, axis=-1), likeliest).astype(jnp.int32)


def _draw(keys: jax.Array, weights: jax.Array) -> jax.Array:
    """int32[B], token i of a row with probability weights[i] / weights.sum(): first its block, then its place there.

    Two uniform numbers of 23 bits each: a token of probability 1e-10 is still drawn as often as it should be.
    """
    n_rows, n_tokens = weights.shape
    blocks = jnp.pad(weights, ((0, 0), (0, -n_tokens % _BLOCK))).reshape(n_rows, -1, _BLOCK)
    uniform = jax.vmap(lambda key: jax.random.uniform(key, (2,), jnp.float32))(keys)
    block = first_above(blocks.sum(axis=-1), uniform[:, 0])
    inside = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
    return block * _BLOCK + first_above(inside, uniform[:, 1])


def pick(
    keys: jax.Array,
    logits: jax.Array,
    allowed: jax.Array,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """One token a row, and its log-prob under :func:`log_probs`.

    Args:
      keys: [B] keys, see :func:`row_keys`; not read where temperature is 0.
      logits: float32[B, V].
      allowed, temperature, top_k, top_p: as for :func:`log_probs`; temperature 0 takes the likeliest token.

    Returns:
      tokens int32[B]; logps float32[B], nats.

    Raises:
      ValueError: as :func:`log_probs`.
    """
    values = scores(logits, allowed, temperature, top_k, top_p)
    below = values - values.max(axis=-1, keepdims=True)
    weights = jnp.exp(below)
    total = weights.sum(axis=-1)
    tokens = _draw(keys, weights) if temperature > 0 else jnp.argmax(values, axis=-1).astype(jnp.int32)
    return tokens, jnp.take_along_axis(below, tokens[:, None], axis=-1)[:, 0] - jnp.log(total)


def pick_each(
    keys: jax.Array, logits: jax.Array, allowed: jax.Array, temperature: jax.Array, top_p: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """:func:`pick` with a temperature and a top-p of its own for each row, as data: one program serves them all.

    Rows that keep every token pay for no sort where none of the batch is truncated.

    Args:
      keys, logits, allowed: as for :func:`pick`.
      temperature: float32[B], at least 0; 0 takes the likeliest token.
      top_p: float32[B] in (0, 1]; 1 is off.

    Returns:
      tokens int32[B]; logps float32[B], nats, of each row's own distribution.

    Raises:
      ValueError: shapes that do not fit.
    """
    if not temperature.shape == top_p.shape == logits.shape[:1]:
        raise ValueError(
            f"temperature and top_p must be float32[B] for B={logits.shape[0]}: got {temperature.shape}, {top_p.shape}"
        )
    greedy = temperature <= 0
    values = scores(logits, allowed) / jnp.where(greedy, 1.0, temperature)[:, None]
    values = jnp.where(allowed[None, :], values, LOG_ZERO)
    top_p = jnp.where(greedy, 1.0, top_p)[:, None]
    values = jax.lax.cond(
        (top_p < 1).any(),
        lambda v: jnp.where((_keep_top_p(v, top_p) | (top_p >= 1)) & allowed[None, :], v, LOG_ZERO),
        lambda v: v,
        values,
    )
    below = values - values.max(axis=-1, keepdims=True)
    weights = jnp.exp(below)
    likeliest = jnp.argmax(values, axis=-1).astype(jnp.int32)
    tokens = jax.lax.cond(greedy.all(), lambda: likeliest, lambda: jnp.where(greedy, likeliest, _draw(keys, weights)))
    return tokens, jnp.take_along_axis(below, tokens[:, None], axis=-1)[:, 0] - jnp.log(weights.sum(axis=-1))
