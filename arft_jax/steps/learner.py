"""The learner's programs: ``score`` (log-probs of finished rows) and ``update`` (one optimiser step).

The forward pass, the banned tokens and the temperature are the sampler's, so the trainer's distribution is
the sampler's. GRPO as in Visual-ARFT (arXiv 2505.14246, section 3); the warm start is the same program with
a different loss. What the gradient does to the parameters is in ``optimizer.py``.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from arft_jax.models.lora import split_trainable, without_adapters
from arft_jax.ops import logps as logps_ops
from arft_jax.rl import advantages, corrections, objectives
from arft_jax.sampling import pick
from arft_jax.sharding import Placement
from arft_jax.steps.optimizer import apply_gradients, init_opt_state, places_of


class Objective(NamedTuple):
    """Static settings of the loss.

    Args:
      kind: ``policy`` (GRPO) or ``imitation`` (cross-entropy on the masked tokens).
      temperature, top_k, top_p: of the sampler.
      epsilon_low, epsilon_high: clip bounds of the ratio.
      beta: weight of the k3 KL to the reference.
      aggregation: ``token`` or ``sequence``.
      on_policy: the batch is used once, so the ratio is exp(logp - stop_gradient(logp)).
      logps_chunk: positions whose logits are held at once.
      importance: ``none``, ``token`` or ``sequence``: truncated importance sampling for tokens that were sampled by
        another policy than the one whose log-probs are the ratio's ``old``: older weights, another kernel.
      importance_cap: largest weight.
    """

    kind: str = "policy"
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    epsilon_low: float = objectives.EPSILON_LOW
    epsilon_high: float = objectives.EPSILON_HIGH
    beta: float = 0.0
    aggregation: str = "token"
    on_policy: bool = True
    logps_chunk: int = 64
    importance: str = "none"
    importance_cap: float = 2.0


def _encode_chunks(model, patches, layout):
    """Image tokens of W waves of chunks, one wave after another; an empty wave costs nothing.

    A wave is one chunk for each lane of the mesh, so that all devices work on it. Returns [W * lanes * n, D].
    """

    @jax.checkpoint
    def encode(args):
        return model.encode(*args)

    def maybe(args):
        shape = jax.eval_shape(encode, args)
        return jax.lax.cond(
            jnp.any(args[1].segment_ids >= 0), encode, lambda _: jnp.zeros(shape.shape, shape.dtype), args
        )

    features = jax.lax.map(maybe, (patches, layout))
    return features.reshape(-1, features.shape[-1])


def _logps(graphdef, objective: Objective, params, batch, allowed):
    """(logps, entropy), each float32[B, T], of every token under the sampler's distribution."""
    model = nnx.merge(graphdef, params)
    features = _encode_chunks(model, batch.patches, batch.layout)
    embeds = model.embed(batch.tokens, features, batch.feature_index)
    hidden = model.hidden(embeds, batch.positions, batch.segment_ids)
    log_probs = functools.partial(
        pick.log_probs,
        allowed=allowed,
        temperature=objective.temperature,
        top_k=objective.top_k,
        top_p=objective.top_p,
    )
    return logps_ops.token_logps(hidden, model.logits, batch.tokens, log_probs, objective.logps_chunk)


def _loss(params, graphdef, objective: Objective, batch, allowed, old_logps, ref_logps):
    logps, entropy = _logps(graphdef, objective, params, batch, allowed)
    mask = batch.loss_mask
    weight = mask.astype(jnp.float32)
    n = jnp.maximum(weight.sum(), 1.0)
    if objective.kind == "imitation":
        loss = objectives.sft_loss(logps, mask)
        stats = {"nll": loss, "n_tokens": weight.sum(), "likely_frac": jnp.where(logps > -0.7, weight, 0.0).sum() / n}
    else:
        old = jax.lax.stop_gradient(logps) if objective.on_policy else old_logps
        weights, weight_stats = None, {}
        if objective.importance != "none":
            cap = objective.importance_cap
            weights = corrections.importance_weights(
                batch.sampler_logps, old, mask, cap=cap, level=objective.importance
            )
            weight_stats = corrections.weight_stats(weights, mask, cap)
        loss, stats = objectives.policy_loss(
            logps,
            old,
            batch.advantages,
            mask,
            epsilon_low=objective.epsilon_low,
            epsilon_high=objective.epsilon_high,
            beta=objective.beta,
            ref_logps=ref_logps if objective.beta > 0 else None,
            weights=weights,
            aggregation=objective.aggregation,
        )
        stats |= corrections.gap_stats(batch.sampler_logps, old, mask) | weight_stats
    return loss, stats | {"entropy": (entropy * weight).sum() / n, "loss": loss}


def _update(
    graphdef, objective, optimizer, rounding, params, opt_state, batch, allowed, learning_rate, old_logps, ref_logps,
    key=None,
):  # fmt: skip
    trained, frozen = split_trainable(params)

    def loss(trained):
        whole = nnx.merge_state(trained, frozen)
        return _loss(whole, graphdef, objective, batch, allowed, old_logps, ref_logps)

    grads, stats = jax.grad(loss, has_aux=True)(trained)
    params, opt_state, applied = apply_gradients(optimizer, rounding, params, opt_state, grads, learning_rate, key)
    return params, opt_state, stats | applied


def make_update(
    graphdef,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    like: tuple | None = None,
    rounding: str = "nearest",
):
    """update(params, opt_state, batch, allowed, rate, old_logps, ref_logps, key) -> (params, opt_state, stats).

    ``params`` and ``opt_state`` are donated; log-probs that the objective does not use may be zeros; ``key`` may be
    left out where nothing is rounded at random.

    Args:
      graphdef: of ``nnx.split(model)``.
      objective: the loss.
      optimizer: of :func:`arft_jax.steps.optimizer.make_optimizer`.
      like: (params, opt_state), arrays or shapes with shardings: where the new ones shall lie, so that the second
        step finds them where the first did. None: wherever the compiler puts them.
      rounding: of new parameters that are kept in bfloat16, as of :func:`arft_jax.steps.optimizer.apply_gradients`.
    """
    places = None if like is None else (*places_of(like), None)
    update = functools.partial(_update, graphdef, objective, optimizer, rounding)
    return jax.jit(update, donate_argnums=(0, 1), out_shardings=places)


def make_score(graphdef, objective: Objective, base: bool = False):
    """score(params, batch, allowed) -> float32[B, T] log-probs of the batch's tokens.

    Args:
      graphdef: of ``nnx.split(model)``.
      objective: of the loss that will read them.
      base: of the frozen base, adapters left out: the reference policy where only adapters are trained.
    """

    def score(params, batch, allowed):
        params = without_adapters(params) if base else params
        return _logps(graphdef, objective, params, batch, allowed)[0]

    return jax.jit(score)


def make_advantages(group_size: int, scale: str):
    """advantages(rewards float32[B], valid bool[B]) -> (advantages float32[B], stats)."""

    def compute(rewards, valid):
        return advantages.group_advantages(rewards, group_size, valid, scale=scale)

    return jax.jit(compute)


def copy_params(params):
    """A copy on the device, for a reference policy that outlives donation."""
    return jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=places_of(params))(params)


def placed_shapes(tree, placement: Placement):
    """Parameters, or what mirrors them, as shapes with shardings."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), tree, placement.params(tree)
    )


def abstract_train_state(
    optimizer: optax.GradientTransformation, params, with_reference: bool, placement: Placement
) -> dict:
    """:func:`train_state` as shapes with shardings: what a checkpoint is read into."""
    opt_state = placed_shapes(jax.eval_shape(optimizer.init, split_trainable(params)[0]), placement)
    params = placed_shapes(params, placement)
    return {"params": params, "opt_state": opt_state, "ref_params": params if with_reference else None}


def train_state(
    optimizer: optax.GradientTransformation, params, with_reference: bool, placement: Placement | None = None
) -> dict:
    """What a checkpoint holds: params, optimiser state, and the reference policy where there is one."""
    reference = copy_params(params) if with_reference else None
    return {"params": params, "opt_state": init_opt_state(optimizer, params, placement), "ref_params": reference}
