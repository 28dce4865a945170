"""A family from outside the package: imported, rolled out, scored and exported by its record alone."""

import jax
import numpy as np
import pytest
from flax import nnx

from arft_jax.build import model
from arft_jax.build.parts import make
from arft_jax.build.plan import plan_policy
from arft_jax.config import default_config
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.io import hf_files
from arft_jax.io.export import save_params
from arft_jax.io.tiny_checkpoint import random_params
from arft_jax.io.weights import load_model_config, load_params
from arft_jax.rollout.request import Request
from arft_jax.steps import learner
from arft_jax.testing.rows import one_each, shown_by
from arft_jax.testing.tiny_rollout import InstantTools, tiny_image, tiny_task
from arft_jax.testing.toy_family import LEVELS, TOY, ToySizes
from arft_jax.trajectory import Observation

CLOSE = 2e-5  # nats; float32, cached against whole


def _sizes():
    t = Tokenizer.tiny()
    return ToySizes.from_hf(
        dict(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=t.vocab_size, image_id=t.image_pad_id
        )
    )


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """(config, parts, params, directory of the weights)."""
    folder = tmp_path_factory.mktemp("toy") / "weights"
    sizes = _sizes()
    save_params(folder, jax.tree.map(lambda x: 3 * x, random_params(sizes, 0)), sizes, files=hf_files.tokenizer_files())
    config = default_config()
    config.weights, config.model.family = str(folder), "arft_jax.testing.toy_family:TOY"
    config.mesh.fsdp = 1
    config.rollout.update(
        group_size=2, n_slots=4, max_turns=2, max_turn_tokens=8, max_tokens=160, decode_steps=4, extend_rows=2,
        extend_chunk=32, n_patches=64, n_windows=1, n_features=64,
    )  # fmt: skip
    config.data.update(min_pixels=28 * 28, max_pixels=56 * 56)
    parts = make(plan_policy(config))
    return config, parts, parts.first_params(), folder


def test_its_weights_are_read_by_its_own_names_and_written_back(policy, tmp_path):
    config, parts, params, folder = policy
    again = tmp_path / "out"
    save_params(again, params, load_model_config(folder, TOY))
    assert load_model_config(again, TOY) == _sizes()
    back = load_params(again, parts.abstract, rules=TOY.weights)
    for (path, one), (_, other) in zip(nnx.to_flat_state(params), nnx.to_flat_state(back), strict=True):
        np.testing.assert_array_equal(one[...], other[...], err_msg=str(path))
    with pytest.raises(ValueError, match=r"model_type must be one of qwen2_5_vl.*: got 'toy'.*config.model.family"):
        load_model_config(folder)


def test_what_it_samples_in_the_engine_is_what_the_learner_scores(policy):
    config, parts, params, _ = policy
    assert parts.engine.slots.state.features.shape == (64, LEVELS * 32)
    tools = InstantTools(lambda task, action, image: Observation("look", (tiny_image(5, 56, 28, "image_2"),)))
    tasks = [tiny_task(0, sizes=((28, 56), (56, 56))), tiny_task(1, sizes=((56, 28),))]
    requests = [Request(task, number, 2) for number, task in enumerate(tasks)]
    groups = parts.engine.run(params, requests, tools, rng=jax.random.key(0), temperature=1.0)
    done = [trajectory for group in groups for trajectory in group]
    assert all((t.positions == np.arange(len(t.tokens))).all() for t in done)  # ordinary positions, images included
    batch = one_each(done, shown_by(parts.patches), length=160, n_chunks=2, bucket=parts.plan.bucket)
    score = learner.make_score(parts.graphdef, learner.Objective())
    logps = np.asarray(score(params, jax.device_put(batch), parts.rules.allowed))
    sampled = np.asarray(batch.loss_mask)
    assert sampled.sum() > 20
    assert np.abs(logps - batch.sampler_logps)[sampled].max() < CLOSE
    # The second level is seen: without it the same tokens have other log-probs.
    half = parts.abstract["eye"]["kernel"].shape[1] // LEVELS
    kernel = params["eye"]["kernel"]
    blind = nnx.merge_state(params, nnx.State({"eye": {"kernel": kernel.replace(kernel[...].at[:, half:].set(0))}}))
    others = np.asarray(score(blind, jax.device_put(batch), parts.rules.allowed))
    assert np.abs(others - logps)[sampled].max() > 1e-3


def test_a_config_draws_it_without_weights():
    config = default_config()
    config.model.family = "arft_jax.testing.toy_family:TOY"
    sizes = model.model_config(config, Tokenizer.tiny())
    assert isinstance(sizes, ToySizes) and sizes.text.dim == 128 and sizes.image_id == Tokenizer.tiny().image_pad_id


@pytest.mark.parametrize(
    "path, sentence",
    [
        (
            "no_such_package:X",
            r"must be importable: got ModuleNotFoundError.*'no_such_package:X' \(config.model.family\)",
        ),
        ("arft_jax.testing.toy_family:NONE", "must have NONE: it has no such name"),
        ("arft_jax.testing.toy_family", r"an import path must be of the form .*config.model.family"),
        ("arft_jax.testing.toy_family:PATCH", r"must be a Family: got .*, a int \(config.model.family\)"),
    ],
)
def test_a_path_that_names_no_family_is_refused(path, sentence):
    config = default_config()
    config.model.family = path
    with pytest.raises(ValueError, match=sentence):
        model.model_config(config, Tokenizer.tiny())
