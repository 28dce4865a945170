"""Records of settings that the loops read, from the config: what a rollout may take, what is learnt from, and how."""

import optax

from arft_jax.data import minilm, packing
from arft_jax.objective_keys import resolved
from arft_jax.rewards.combine import RewardWeights
from arft_jax.rewards.length import Overlong
from arft_jax.rl.advantages import AdvantageSettings
from arft_jax.rl.objectives import PolicySettings
from arft_jax.rollout.request import RolloutLimits
from arft_jax.steps import learner
from arft_jax.steps.optimizer import make_optimizer


def rollout_limits(config) -> RolloutLimits:
    """Sizes and budgets of a rollout."""
    r = config.rollout
    return RolloutLimits(
        n_slots=r.n_slots,
        group_size=r.group_size,
        max_turns=r.max_turns,
        max_turn_tokens=r.max_turn_tokens,
        max_tokens=r.max_tokens,
        extend_rows=r.extend_rows,
        extend_chunk=r.extend_chunk,
        n_features=r.n_features,
        max_images=r.max_images,
        max_image_pixels=r.max_image_pixels,
    )


def reward_weights(config) -> RewardWeights:
    """R_total's weights, from the config."""
    w = config.rewards
    return RewardWeights(
        format=w.format,
        accuracy=w.accuracy,
        step=w.step,
        max_answer_words=w.max_answer_words,
        any_order=bool(config.tools.offer),
    )


def overlong(config) -> Overlong | None:
    """The penalty on length, from the config; None where there is none."""
    t = config.train
    return Overlong(t.overlong_from, t.overlong_to, t.overlong_weight) if t.unfinished == "overlong" else None


def query_embedding(config) -> minilm.MiniLM | None:
    """What recorded queries are compared by; None: their words."""
    return minilm.MiniLM() if config.rewards.query == "minilm" else None


def keeps_reference(config) -> bool:
    """Whether a copy of what is trained is kept for the reference policy.

    Where only adapters are trained none is needed for the base, nor where GRPO starts from it: fresh adapters change
    nothing.
    """
    lora = config.model.lora
    starts_at_base = not lora.adapter and not config.warm_start.steps
    is_base = bool(lora.rank) and (config.train.reference == "base" or starts_at_base)
    return resolved(config).beta > 0 and not is_base


def optimizer(config) -> optax.GradientTransformation:
    """Clipping and AdamW, from the config."""
    t = config.train
    return make_optimizer(
        clip_norm=t.clip_norm, b1=t.adam_b1, b2=t.adam_b2, weight_decay=t.weight_decay, moments=t.moments
    )


def policy_settings(config) -> PolicySettings:
    """Which policy loss, from the config; a constant divisor that is not given is the longest trajectory."""
    keys = resolved(config)
    if keys.aggregation == "constant" and not keys.divisor_len:
        keys = keys._replace(divisor_len=config.rollout.max_tokens)
    return PolicySettings(**{name: getattr(keys, name) for name in PolicySettings._fields})


def advantage_settings(config) -> AdvantageSettings:
    """What the advantages are taken from, from the config."""
    keys = resolved(config)
    return AdvantageSettings(baseline=keys.baseline, scale=keys.scale_advantages)


def objective(config, kind: str) -> learner.Objective:
    """The static settings of the loss, from the config."""
    t, r = config.train, config.rollout
    return learner.Objective(
        kind=kind,
        policy=policy_settings(config) if kind == "policy" else PolicySettings(),
        temperature=r.temperature,
        top_k=r.top_k,
        top_p=r.top_p,
        logps_chunk=t.logps_chunk,
        shares_prompts=t.share_prompts and kind == "policy",
    )


# Columns of a row that a token meets, as a share of them, where that grows with the row: 4 D operations for each,
# beside some 24 D² for all else that a layer does for the token. The other forms pass over what a token does not see.
_COLUMNS_READ = {"plain": 1.0, "splash": 0.5}


def pack_sizes(config, n_lanes: int, dim: int) -> packing.Sizes:
    """What a micro-batch may hold.

    Args:
      config: of the run.
      n_lanes: data * fsdp of the mesh.
      dim: D of the decoder.
    """
    t = config.train
    return packing.Sizes(
        micro_tokens=t.micro_tokens,
        max_tokens=config.rollout.max_tokens,
        n_lanes=n_lanes,
        shares_prompts=t.share_prompts,
        row_widths=tuple(t.row_widths),
        attention_cost=_COLUMNS_READ.get(config.model.attention, 0.0) / (6 * dim),
    )
