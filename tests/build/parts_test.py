"""What is made of a plan: rules, weights, and that the parts lie where the plan says."""

import jax
import numpy as np
import pytest

from arft_jax.build import parts as build
from arft_jax.build.plan import plan
from arft_jax.config import default_config
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.io.tiny_checkpoint import make_tiny_checkpoint
from arft_jax.io.weights import load_model_config, load_params
from arft_jax.tools.bundled import paper_syntax


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.tiny()


def test_the_rules_allow_what_can_be_written_and_the_end_token(tokenizer):
    rules = build.make_rules(tokenizer, paper_syntax().stops)
    allowed = np.asarray(rules.allowed)
    written = np.array([len(piece) > 0 for piece in tokenizer.token_bytes()])
    assert set(np.flatnonzero(allowed)) == set(np.flatnonzero(written)) | {tokenizer.eos_id}
    assert set(tokenizer.control_ids) & set(np.flatnonzero(allowed)) == {tokenizer.eos_id}
    assert int(rules.eos) == tokenizer.eos_id
    # each stop of the protocol leads from the start to its own hit
    for index, stop in enumerate(paper_syntax().stops):
        state = 0
        for token in tokenizer.encode(stop):
            state = int(rules.next_state[state, token])
        assert int(rules.hit_of[state]) == index


def test_weights_give_the_model_its_sizes_its_tokenizer_and_its_values(tmp_path):
    config = default_config()
    make_tiny_checkpoint(tmp_path / "hf", seed=3)
    config.weights = str(tmp_path / "hf")
    parts = build.make(plan(config))
    sizes, n_known = load_model_config(config.weights), parts.plan.tokenizer.vocab_size
    assert sizes.text.vocab_size > n_known  # padded, as the published ones are
    assert parts.rules.allowed.shape == (sizes.text.vocab_size,) == parts.rules.next_state.shape[1:]
    assert not np.asarray(parts.rules.allowed)[n_known:].any()
    np.testing.assert_array_equal(parts.allowed, parts.rules.allowed)
    assert f"vocabulary {sizes.text.vocab_size}, " in build.describe(parts)
    got, want = parts.first_params(), load_params(config.weights, parts.abstract)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.sharding == jax.sharding.NamedSharding(parts.plan.placement.mesh, a.sharding.spec)
    # the engine takes the policy as for_rollout gives it, and makes no second copy
    policy = parts.for_rollout(got)
    assert parts.engine.slots.read(policy) is policy
