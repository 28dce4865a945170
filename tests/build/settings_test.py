"""Settings records follow the config."""

import dataclasses

import pytest

from arft_jax.build import settings
from arft_jax.config import default_config
from arft_jax.steps import learner


@pytest.fixture
def config():
    return default_config()


def test_objectives_follow_the_config(config):
    policy, imitation = settings.objective(config, "policy"), settings.objective(config, "imitation")
    assert policy.on_policy and policy.beta == 0.0 and policy.temperature == config.rollout.temperature
    config.train.update(beta=0.1, rows_per_update=32, epsilon_low=0.1, epsilon_high=0.3, aggregation="sequence")
    policy = settings.objective(config, "policy")
    assert not policy.on_policy  # two updates a step: the second is off policy
    assert (policy.beta, policy.epsilon_low, policy.epsilon_high, policy.aggregation) == (0.1, 0.1, 0.3, "sequence")
    assert settings.objective(config, "imitation").beta == 0.0 and imitation.kind == "imitation"


def test_the_loss_of_the_default_config_is_the_default_loss(config):
    config.train.rows_per_update = config.train.prompts * config.rollout.group_size
    assert settings.objective(config, "policy") == learner.Objective()


def test_reward_weights_follow_the_config(config):
    config.rewards.update(format=0.5, accuracy=2.0, step=0.25, max_answer_words=9)
    weights = dataclasses.asdict(settings.reward_weights(config))
    assert weights.pop("any_order") is False and weights | {"query": "f1", "extra": ()} == config.rewards.to_dict()
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
