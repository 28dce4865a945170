"""What a step learns with: the KL to the reference in the reward reaches every token's advantage."""

import dataclasses

import jax
import numpy as np
import pytest

from arft_jax.build.parts import make
from arft_jax.build.plan import plan
from arft_jax.config import default_config
from arft_jax.data.synthetic.chains import Chain, ChainTurn
from arft_jax.steps import learner
from arft_jax.testing import tiny_rollout as tiny
from arft_jax.train.learning import Learning
from arft_jax.train.state import TrainState
from arft_jax.train.warm_start import chain_trajectory

BETA, G = 0.2, 2


@pytest.fixture(scope="module")
def run():
    """(learning, state, trajectories of two groups, what the updates were given); nothing is updated."""
    config = default_config()
    config.model.text_config.update(hidden_size=32, intermediate_size=32, num_hidden_layers=1, mrope_section=(1, 1, 2))
    config.model.vision_config.update(hidden_size=32, intermediate_size=32)
    config.rollout.update(group_size=G, n_slots=G, max_tokens=512)
    config.train.update(objective="reinforce_pp", beta=BETA, prompts=2, rows_per_update=G, row_widths=(512,))
    planned = plan(config)
    parts = make(planned)
    state = TrainState(**learner.train_state(planned.optimizer, parts.first_params(), True, planned.placement))
    state.ref_params = jax.jit(lambda tree: jax.tree.map(lambda x: 1.3 * x, tree))(state.ref_params)
    made = []
    for i, answer in enumerate(("7", "red", "a card", "none of these")):
        chain = Chain(tiny.tiny_task(i // G, sizes=[(28, 56)]), (ChainTurn(f"<answer>{answer}</answer>", None, True),))
        trajectory = chain_trajectory(parts.engine.renderer, chain)
        made.append(dataclasses.replace(trajectory, rewards={"total": float(i)}))
    learning, given = Learning(planned, parts, state), []

    def keep(state, samples, images, plan, learning_rate, on_policy):
        given.append(samples)
        return {"skipped": 0.0}

    learning.updater.apply = keep
    figures, _ = learning.step(state, made, 1, 1e-3)
    return figures, made, given


def test_each_token_has_the_return_that_follows_it_normalised_over_the_step(run):
    figures, made, given = run
    assert [len(samples) for samples in given] == [G, G]  # two updates, each with groups of its own
    samples = {s.tokens.tobytes(): s for samples in given for s in samples}
    samples = [samples[t.tokens.tobytes()] for t in made]
    returns = []
    for i, sample in enumerate(samples):
        mask = sample.loss_mask
        kl = (sample.old_logps - sample.ref_logps)[mask]  # k1
        assert len(kl) > 2 and np.abs(kl).max() > 1e-3 and (sample.old_logps[mask] < 0).all()
        returns.append(i - BETA * np.cumsum(kl[::-1])[::-1])
    every = np.concatenate(returns)
    want = [(one - every.mean()) / (every.std() + 1e-4) for one in returns]
    for sample, values in zip(samples, want, strict=True):
        np.testing.assert_allclose(sample.advantages[sample.loss_mask], values, rtol=1e-4, atol=1e-5)
    whole = [one[0] - i for i, one in enumerate(returns)]
    assert figures["reward_kl_mean"] == pytest.approx(np.mean(whole), rel=1e-4) and figures["reward_mean"] == 1.5
