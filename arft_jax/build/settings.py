"""Records of settings that the loops read, from the config: what a rollout may take, what is learnt from, and how."""

import optax

from arft_jax.data import minilm
from arft_jax.rewards.combine import RewardWeights
from arft_jax.rewards.length import Overlong
from arft_jax.rollout.request import RolloutLimits
from arft_jax.steps import learner


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
    """Whether a copy of the policy is kept as reference; where only adapters are trained the base is one already."""
    return config.train.beta > 0 and not config.model.lora.rank


def optimizer(config) -> optax.GradientTransformation:
    """Clipping and AdamW, from the config."""
    t = config.train
    return learner.make_optimizer(clip_norm=t.clip_norm, b1=t.adam_b1, b2=t.adam_b2, weight_decay=t.weight_decay)


def objective(config, kind: str) -> learner.Objective:
    """The static settings of the loss, from the config."""
    t, r = config.train, config.rollout
    rows = t.prompts * r.group_size
    return learner.Objective(
        kind=kind,
        temperature=r.temperature,
        top_k=r.top_k,
        top_p=r.top_p,
        epsilon_low=t.epsilon_low,
        epsilon_high=t.epsilon_high,
        beta=t.beta if kind == "policy" else 0.0,
        aggregation=t.aggregation,
        on_policy=rows == t.rows_per_update,
        logps_chunk=t.logps_chunk,
        importance=t.importance if kind == "policy" else "none",
        importance_cap=t.importance_cap,
    )
