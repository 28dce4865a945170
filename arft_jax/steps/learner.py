"""The learner's programs: ``score`` (log-probs), ``accumulate`` (gradients of a micro-batch), ``apply`` (the step).

The forward pass, the banned tokens and the temperature are the sampler's, so the trainer's distribution is
the sampler's. GRPO as in Visual-ARFT (arXiv 2505.14246, section 3); the warm start is the same program with
a different loss. What the gradient does to the parameters is in ``optimizer.py``.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from arft_jax.models.lora import split_trainable, without_adapters
from arft_jax.ops import logps as logps_ops
from arft_jax.rl import advantages, objectives
from arft_jax.sampling import pick
from arft_jax.sharding import Placement
from arft_jax.steps.optimizer import init_opt_state, places_of


class Objective(NamedTuple):
    """Static settings of the loss.

    Args:
      kind: ``policy`` or ``imitation`` (cross-entropy on the masked tokens).
      policy: settings of the policy loss.
      temperature, top_k, top_p: of the sampler.
      logps_chunk: positions of a lane whose logits are held at once.
      shares_prompts: rows hold prompts that several samples share.
    """

    kind: str = "policy"
    policy: objectives.PolicySettings = objectives.PolicySettings()
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    logps_chunk: int = 1024
    shares_prompts: bool = False


class Whole(NamedTuple):
    """What a micro-batch must know of the update that it is a part of.

    Args:
      n_tokens: float32[], tokens to learn from.
      n_rows: float32[], samples that have one.
      on_policy: bool[], the parameters are those whose log-probs are the ratio's old ones.
    """

    n_tokens: jax.Array
    n_rows: jax.Array
    on_policy: jax.Array


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
    prefixes = (batch.prefix_ids,) if objective.shares_prompts else ()
    hidden = model.hidden(embeds, batch.positions, batch.segment_ids, *prefixes)
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
        source=batch.source,
        mask=batch.loss_mask,
    )


def _loss(trained, frozen, graphdef, objective: Objective, placement, batch, allowed, whole: Whole):
    params = nnx.merge_state(trained, frozen)
    logps, entropy = _logps(graphdef, objective, placement, params, batch, allowed)
    if objective.kind == "imitation":
        loss, stats = objectives.sft_loss(logps, batch.loss_mask, entropy=entropy, n_tokens=whole.n_tokens)
        return loss, stats | {"loss": loss}
    loss, stats = objectives.policy_loss(
        logps,
        batch.advantages,
        batch.loss_mask,
        settings=objective.policy,
        segment_ids=batch.segment_ids,
        old_logps=batch.old_logps,
        ref_logps=batch.ref_logps,
        sampler_logps=batch.sampler_logps,
        entropy=entropy,
        on_policy=whole.on_policy,
        n_tokens=whole.n_tokens,
        n_rows=whole.n_rows,
    )
    return loss, stats | {"loss": loss}


def abstract_gradients(params):
    """Gradients as shapes with shardings: float32, each beside its parameter."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32, sharding=leaf.sharding), split_trainable(params)[0]
    )


def make_zeros(params):
    """zeros() -> gradients of 0."""
    shapes = abstract_gradients(params)
    return jax.jit(
        lambda: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes), out_shardings=places_of(shapes)
    )


def make_accumulate(graphdef, objective: Objective, like=None, placement: Placement | None = None):
    """accumulate(params, gradients, batch, allowed, whole) -> (gradients, stats): those of one micro-batch more.

    ``gradients`` are float32, begin at 0 (:func:`make_zeros`) and are donated. Loss, gradients and stats of an update's
    micro-batches add up to the update's; a stat whose name ends in ``_max`` is the largest of theirs.

    Args:
      graphdef: of ``nnx.split(model)``.
      objective: the loss.
      like: parameters, arrays or shapes with shardings, beside which the gradients shall lie. None: wherever the
        compiler puts them.
      placement: of the run; None: one device.
    """

    def accumulate(params, gradients, batch, allowed, whole):
        trained, frozen = split_trainable(params)
        of_batch = (frozen, graphdef, objective, placement, batch, allowed, whole)
        more, stats = jax.grad(_loss, has_aux=True)(trained, *of_batch)
        return jax.tree.map(lambda a, b: a + b.astype(jnp.float32), gradients, more), stats

    places = None if like is None else (places_of(split_trainable(like)[0]), None)
    return jax.jit(accumulate, donate_argnums=(1,), out_shardings=places)


def joined_stats(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The stats of an update from those of its micro-batches."""
    return {
        name: (max if name.endswith("_max") else sum)(part[name] for part in parts)
        for name in (parts[0] if parts else ())
    }


def make_score(graphdef, objective: Objective, base: bool = False, placement: Placement | None = None):
    """score(params, batch, allowed) -> float32[B, T] log-probs of the loss's tokens, 0 elsewhere, on every device.

    Args:
      graphdef: of ``nnx.split(model)``.
      objective: of the loss that will read them.
      base: of the frozen base, adapters left out: the reference policy where only adapters are trained.
      placement: of the run; None: one device.
    """

    def score(params, batch, allowed):
        params = without_adapters(params) if base else params
        return _logps(graphdef, objective, placement, params, batch, allowed)[0]

    return jax.jit(score, out_shardings=None if placement is None else placement.whole)


def make_advantages(group_size: int, settings: advantages.AdvantageSettings, policy: objectives.PolicySettings):
    """advantages(rewards, valid, loss_mask, logps=None, ref_logps=None) -> (float32[B, T], stats).

    ``rewards`` float32[B] and ``valid`` bool[B] of all rows of a step; the other arrays [B, T]. Log-probs are given
    where the reward has a KL term.

    Args:
      group_size: G.
      settings: of the advantages.
      policy: which estimate of the KL, and its weight.
    """

    def compute(rewards, valid, loss_mask, logps=None, ref_logps=None):
        changes, change = jnp.float32(0), None
        if ref_logps is not None:
            kl = objectives.kl_to_reference(logps, ref_logps, loss_mask, policy.kl)
            changes, change = advantages.reward_change(kl, loss_mask, policy.beta)
        found, stats = advantages.step_advantages(
            rewards, valid, settings=settings, group_size=group_size, n_tokens=loss_mask.sum(axis=1), change=change
        )
        return advantages.by_token(found, changes, loss_mask), stats

    return jax.jit(compute)


def copy_params(params):
    """A copy on the device, for a reference policy that outlives donation."""
    return jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=places_of(params))(params)


def copy_trained(params):
    """A copy of what is trained, which ``models.lora.with_trained`` puts back: the adapters, or everything."""
    return copy_params(split_trainable(params)[0])


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
    reference = split_trainable(params)[0] if with_reference else None
    return {"params": params, "opt_state": opt_state, "ref_params": reference}


def train_state(
    optimizer: optax.GradientTransformation, params, with_reference: bool, placement: Placement | None = None
) -> dict:
    """What a checkpoint holds: params, optimiser state, and what is trained of a reference policy that is kept."""
    reference = copy_trained(params) if with_reference else None
    return {"params": params, "opt_state": init_opt_state(optimizer, params, placement), "ref_params": reference}
