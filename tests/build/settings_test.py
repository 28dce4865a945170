"""Settings records follow the config."""

import dataclasses

import pytest

from arft_jax.build import settings
from arft_jax.config import default_config
from arft_jax.objective_keys import ObjectiveKeys
from arft_jax.steps import learner


@pytest.fixture
def config():
    return default_config()


def test_objectives_follow_the_config(config):
    policy, imitation = settings.objective(config, "policy"), settings.objective(config, "imitation")
    assert policy.policy.beta == 0.0 and policy.temperature == config.rollout.temperature
    config.train.update(beta=0.1, epsilon_low=0.1, epsilon_high=0.3, aggregation="sequence", share_prompts=True)
    p = settings.objective(config, "policy").policy
    assert (p.beta, p.epsilon_low, p.epsilon_high, p.aggregation) == (0.1, 0.1, 0.3, "sequence")
    assert settings.objective(config, "imitation").policy.beta == 0.0 and imitation.kind == "imitation"
    assert settings.objective(config, "policy").shares_prompts and not imitation.shares_prompts


def test_what_a_micro_batch_holds_follows_the_config(config):
    config.train.update(micro_tokens=4096, row_widths=(512, 256), share_prompts=True)
    sizes = settings.pack_sizes(config, n_lanes=4, dim=128)
    assert sizes[:4] == (4096, config.rollout.max_tokens, 4, True) and sizes.widths == [256, 512]
    assert sizes.attention_cost == 0  # blocks that a token does not see are passed over
    config.model.attention = "plain"
    assert settings.pack_sizes(config, n_lanes=4, dim=128).attention_cost == 1 / 768


# A value of each key that the default objective does not have.
OTHER = dict(
    ratio="product", surrogate="cispo", epsilon_low=0.1, epsilon_high=0.1, dual_clip=2.0, aggregation="sequence",
    divisor_len=3, baseline="none", scale_advantages="batch", kl="k1", kl_in="reward", beta=0.2, entropy_bonus=0.1,
    importance="token", importance_mode="mask", importance_floor=0.5, importance_cap=3.0,
)  # fmt: skip


@pytest.mark.parametrize("key", ObjectiveKeys._fields)
def test_every_key_of_the_objective_reaches_the_loss_or_the_advantages(config, key):
    """What the two do with it: tests/rl/objectives_test.py and advantages_test.py."""
    before = settings.policy_settings(config), settings.advantage_settings(config)
    config.train[key] = OTHER[key]
    after = settings.policy_settings(config), settings.advantage_settings(config)
    assert [getattr(after[key in ("baseline", "scale_advantages")], key.removesuffix("_advantages"))] == [OTHER[key]]
    assert sum(a != b for x, y in zip(before, after, strict=True) for a, b in zip(x, y, strict=True)) == 1


def test_a_constant_divisor_is_the_longest_trajectory_unless_given(config):
    config.train.objective, config.rollout.max_tokens = "dr_grpo", 333
    assert settings.policy_settings(config).divisor_len == 333
    config.train.divisor_len = 100
    assert settings.policy_settings(config).divisor_len == 100


def test_a_reference_is_kept_where_the_named_objective_reads_one(config):
    assert not settings.keeps_reference(config)
    config.train.objective = "grpo"
    assert settings.keeps_reference(config)
    config.train.beta = 0.0
    assert not settings.keeps_reference(config)


def test_the_loss_of_the_default_config_is_the_default_loss(config):
    config.train.rows_per_update = config.train.prompts * config.rollout.group_size
    assert settings.objective(config, "policy") == learner.Objective()


def test_reward_weights_follow_the_config(config):
    config.rewards.update(format=0.5, accuracy=2.0, step=0.25, max_answer_words=9)
    weights = dataclasses.asdict(settings.reward_weights(config))
    others = {key: config.rewards.to_dict()[key] for key in ("query", "extra", "judge")}
    assert weights.pop("any_order") is False and weights | others == config.rewards.to_dict()
    config.tools.offer = ("python",)
    assert settings.reward_weights(config).any_order


def test_the_penalty_on_length_follows_the_config_and_is_there_where_it_is_asked_for(config):
    config.train.update(overlong_from=3, overlong_to=9, overlong_weight=0.25)
    assert settings.overlong(config) is None
    config.train.unfinished = "overlong"
    assert dataclasses.astuple(settings.overlong(config)) == (3, 9, 0.25)


def test_limits_follow_the_config(config):
    config.rollout.update(n_slots=9, max_images=3, max_tokens=77)
    limits = dataclasses.asdict(settings.rollout_limits(config))
    assert {name: config.rollout[name] for name in limits} == limits
    assert (limits["n_slots"], limits["max_images"], limits["max_tokens"]) == (9, 3, 77)


@pytest.mark.parametrize(
    "changes, kept",
    [
        ({"train.beta": 0.0}, False),
        ({"model.lora.rank": 0}, True),
        ({"model.lora.rank": 0, "train.reference": "base"}, True),  # every parameter moves
        ({}, True),
        ({"train.reference": "base"}, False),  # which stands still
        ({"warm_start.steps": 0}, False),  # fresh adapters change nothing
        ({"warm_start.steps": 0, "model.lora.adapter": "somewhere"}, True),
        ({"warm_start.steps": 0, "model.lora.adapter": "somewhere", "train.reference": "base"}, False),
    ],
)
def test_a_reference_is_kept_where_the_frozen_base_is_not_it(config, changes, kept):
    config.update_from_flattened_dict({"model.lora.rank": 2, "train.beta": 0.1, "warm_start.steps": 3} | changes)
    assert settings.keeps_reference(config) is kept
