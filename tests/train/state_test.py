"""The rollouts' copy of the policy: made once a version, let go for training. The reference and what is kept of it."""

import types
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from arft_jax.config import default_config
from arft_jax.io.checkpoints import Checkpoints
from arft_jax.models.lora import LoraParam
from arft_jax.sharding import Placement, make_mesh
from arft_jax.steps import learner
from arft_jax.steps.optimizer import make_optimizer
from arft_jax.train.state import RolloutPolicy, TrainState

ONE = Placement(make_mesh({}, jax.devices()[:1]))
OPTIMIZER = make_optimizer(clip_norm=1.0, b1=0.9, b2=0.95, weight_decay=0.0)
ADAPTER = {("q", "lora_a"), ("q", "lora_b")}


def test_the_policy_is_made_once_for_each_version_and_anew_after_it_was_released():
    made, first, second = [], {"w": 1}, {"w": 1}
    policy = RolloutPolicy(lambda params: made.append(params) or [params])
    copy = policy(first)
    assert copy == [first] and policy(first) is copy and len(made) == 1
    assert policy(second) is not copy and made[1] is second
    policy.release()
    policy(second)
    assert len(made) == 3


def test_the_older_copy_is_let_go_before_the_next_is_made():
    class Copy:
        pass

    alive = weakref.WeakSet()

    def make(params):
        seen.append(len(alive))
        alive.add(copy := Copy())
        return copy

    seen, policy = [], RolloutPolicy(make)
    policy("first")
    policy("second")
    assert seen == [0, 0] and len(alive) == 1


def test_a_checkpoint_holds_the_arrays_of_the_state_by_these_names():
    state = TrainState("p", "o", None, 3)
    assert state.arrays() == {"params": "p", "opt_state": "o", "ref_params": None}


def _policy(value, adapters=True):
    """A linear map, all of whose numbers are ``value``; with adapters or without."""
    kinds = {"kernel": nnx.Param} | ({"lora_a": LoraParam, "lora_b": LoraParam} if adapters else {})
    flat = [
        (("q", name), kind(jnp.full((2, 2), value, jnp.float32), axes=("embed", "mlp"))) for name, kind in kinds.items()
    ]
    return jax.device_put(nnx.from_flat_state(flat), ONE.params(nnx.from_flat_state(flat)))


def _plan(reference):
    config = default_config()
    config.train.reference = reference
    return types.SimpleNamespace(config=config, optimizer=OPTIMIZER, placement=ONE)


def _values(params):
    return {keys: float(leaf[...].mean()) for keys, leaf in nnx.to_flat_state(params)}


def _trained(state, change):
    """Adds to what is trained and donates the old arrays, as an update does."""
    names = ADAPTER if ("q", "lora_a") in dict(nnx.to_flat_state(state.params)) else {("q", "kernel")}

    def step(params):
        flat = [(k, leaf.replace(leaf[...] + change * (k in names))) for k, leaf in nnx.to_flat_state(params)]
        return nnx.from_flat_state(flat)

    state.params = jax.jit(step, donate_argnums=0)(state.params)


@pytest.mark.parametrize("reference, want", [("start", 3.0), ("base", 1.0)])
@pytest.mark.parametrize("adapters", [True, False], ids=["adapters", "whole"])
def test_the_reference_is_the_policy_as_grpo_starts_or_as_the_run_did_and_outlives_donation(adapters, reference, want):
    state = TrainState(**learner.train_state(OPTIMIZER, _policy(1.0, adapters), True, ONE))
    _trained(state, 2.0)  # the warm start
    state.begin_grpo(_plan(reference))
    _trained(state, 4.0)
    kept = {keys for keys, _ in nnx.to_flat_state(state.ref_params)}
    assert kept == (ADAPTER if adapters else {("q", "kernel")})  # the base is not kept twice
    assert _values(state.reference()) == ({("q", "kernel"): 1.0} if adapters else {}) | dict.fromkeys(kept, want)
    assert jax.tree.structure(state.reference()) == jax.tree.structure(state.params)
    assert {value for keys, value in _values(state.params).items() if keys in kept} == {7.0}


def test_without_a_kept_reference_the_policy_itself_is_scored_for_its_base():
    state = TrainState(**learner.train_state(OPTIMIZER, _policy(1.0), False, ONE))
    state.begin_grpo(_plan("start"))
    assert state.ref_params is None and state.reference() is state.params


def test_the_adapters_of_a_reference_come_back_from_a_checkpoint(tmp_path):
    state = TrainState(**learner.train_state(OPTIMIZER, _policy(1.0), True, ONE))
    _trained(state, 2.0)
    state.begin_grpo(_plan("start"))
    _trained(state, 4.0)
    with Checkpoints(tmp_path, keep=1) as store:
        store.save(1, state.arrays(), {})
        store.wait()
        abstract = learner.abstract_train_state(OPTIMIZER, _policy(0.0), True, ONE)
        back = TrainState(**store.restore_latest(abstract)[1])
    assert {keys for keys, _ in nnx.to_flat_state(back.ref_params)} == ADAPTER
    for one, other in zip(jax.tree.leaves(back.reference()), jax.tree.leaves(state.reference()), strict=True):
        np.testing.assert_array_equal(one, other)
