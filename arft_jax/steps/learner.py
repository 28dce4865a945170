"""The learner's programs: ``score`` (log-probs of finished rows) and ``update`` (one optimiser step).

The forward pass, the banned tokens and the temperature are the sampler's, so the trainer's distribution is
the sampler's. GRPO as in Visual-ARFT (arXiv 2505.14246, section 3); the warm start is the same program with
a different loss. Departure: a non-finite gradient leaves params and optimiser state as they were, and is
counted, where optax.apply_if_finite would in the end apply it.
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


def _logps(graphdef, objective: Objective, placement: Placement | None, params, batch, allowed):
    """(logps, entropy), each float32[B, T], of the loss's tokens under the sampler's distribution; 0 elsewhere."""
    model = nnx.merge(graphdef, params)
    features = _encode_chunks(model, batch.patches, batch.layout)
    embeds = model.embed(batch.tokens, features, batch.feature_index)
    hidden = model.hidden(embeds, batch.positions, batch.segment_ids)
    scores = functools.partial(
        pick.scores, temperature=objective.temperature, top_k=objective.top_k, top_p=objective.top_p
    )
    token_logps = logps_ops.token_logps if placement is None else placement.token_logps
    return token_logps(
        hidden,
        model.unembedding_kernel(),
        batch.tokens,
        allowed,
        unembed=model.logits,
        scores=scores,
        chunk=objective.logps_chunk,
        mask=batch.loss_mask,
    )


def _loss(params, graphdef, objective: Objective, placement, batch, allowed, old_logps, ref_logps):
    logps, entropy = _logps(graphdef, objective, placement, params, batch, allowed)
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
    graphdef, objective, optimizer, placement, params, opt_state, batch, allowed, learning_rate, old_logps, ref_logps
):
    trained, frozen = split_trainable(params)

    def loss(trained):
        whole = nnx.merge_state(trained, frozen)
        return _loss(whole, graphdef, objective, placement, batch, allowed, old_logps, ref_logps)

    grads, stats = jax.grad(loss, has_aux=True)(trained)
    norm = optax.tree.norm(grads)
    with jax.numpy_dtype_promotion("standard"):  # optax mixes types where the caller may forbid it
        updates, new_opt_state = optimizer.update(grads, opt_state, trained)
    finite = jnp.isfinite(norm)

    def keep(new, old):
        return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)

    new = jax.tree.map(lambda p, u: p - (learning_rate * u).astype(p.dtype), trained, updates)
    stats = stats | {"grad_norm": norm, "skipped": 1.0 - finite.astype(jnp.float32)}
    new_params = nnx.merge_state(keep(new, trained), frozen)
    return new_params, keep(new_opt_state, opt_state), stats


def make_optimizer(*, clip_norm: float, b1: float, b2: float, weight_decay: float) -> optax.GradientTransformation:
    """Global-norm clipping and AdamW without the learning rate, which ``update`` takes as an argument."""
    return optax.chain(
        optax.clip_by_global_norm(clip_norm), optax.scale_by_adam(b1=b1, b2=b2), optax.add_decayed_weights(weight_decay)
    )


def _places(tree):
    """The sharding of every array."""
    return jax.tree.map(lambda leaf: leaf.sharding, tree)


def make_update(
    graphdef,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    like: tuple | None = None,
    placement: Placement | None = None,
):
    """update(params, opt_state, batch, allowed, learning_rate, old_logps, ref_logps) -> (params, opt_state, stats).

    ``params`` and ``opt_state`` are donated; log-probs that the objective does not use may be zeros.

    Args:
      graphdef: of ``nnx.split(model)``.
      objective: the loss.
      optimizer: of :func:`make_optimizer`.
      like: (params, opt_state), arrays or shapes with shardings: where the new ones shall lie, so that the second
        step finds them where the first did. None: wherever the compiler puts them.
      placement: of the run; None: one device.
    """
    places = None if like is None else (*_places(like), None)
    update = functools.partial(_update, graphdef, objective, optimizer, placement)
    return jax.jit(update, donate_argnums=(0, 1), out_shardings=places)


def make_score(graphdef, objective: Objective, base: bool = False, placement: Placement | None = None):
    """score(params, batch, allowed) -> float32[B, T] log-probs of the loss's tokens, 0 elsewhere.

    Args:
      graphdef: of ``nnx.split(model)``.
      objective: of the loss that will read them.
      base: of the frozen base, adapters left out: the reference policy where only adapters are trained.
      placement: of the run; None: one device.
    """

    def score(params, batch, allowed):
        params = without_adapters(params) if base else params
        return _logps(graphdef, objective, placement, params, batch, allowed)[0]

    return jax.jit(score)


def make_advantages(group_size: int, scale: str):
    """advantages(rewards float32[B], valid bool[B]) -> (advantages float32[B], stats)."""

    def compute(rewards, valid):
        return advantages.group_advantages(rewards, group_size, valid, scale=scale)

    return jax.jit(compute)


def init_opt_state(optimizer: optax.GradientTransformation, params, placement: Placement | None = None):
    """The optimiser's state for fresh moments, each placed as its parameter is (zeros follow from no input)."""
    params = split_trainable(params)[0]
    if placement is None:
        return jax.device_put(jax.jit(optimizer.init)(params), jax.tree.leaves(params)[0].sharding)
    places = placement.params(jax.eval_shape(optimizer.init, params))
    return jax.jit(optimizer.init, out_shardings=places)(params)


def copy_params(params):
    """A copy on the device, for a reference policy that outlives donation."""
    return jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=_places(params))(params)


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
