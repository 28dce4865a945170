"""The embedder: what its vectors are, and that neighbours in a call do not matter."""

import jax
import numpy as np
import pytest
from flax import nnx

from arft_jax.build import image_embedder
from arft_jax.build import model as build
from arft_jax.build import placement as layout
from arft_jax.config import default_config
from arft_jax.data.batch import fill_chunk
from arft_jax.io.tiny_checkpoint import make_tiny_checkpoint
from arft_jax.io.weights import load_params
from arft_jax.models.qwen2_5_vl.model import Qwen2_5_VL
from arft_jax.steps import init
from arft_jax.trajectory import Image

ROUNDING = 2e-5  # float32, sums of a few hundred terms in another order


def picture(seed, height=84, width=84):
    return Image(np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8))


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    make_tiny_checkpoint(folder / "hf", dtype="float32")
    config = default_config()
    config.weights = str(folder / "hf")
    config.data.update(min_pixels=28 * 28, max_pixels=112 * 112)
    config.rollout.update(n_patches=128, n_windows=8)
    return config


@pytest.fixture(scope="module")
def embedder(config):
    return image_embedder.make_embedder(config)


PICTURES = [picture(0), picture(1, 28, 112), picture(2, 112, 112), picture(3, 28, 28), picture(4, 56, 84)]


def test_a_vector_is_the_mean_of_the_merged_tokens_at_length_one(config, embedder):
    sizes = build.model_config(config, build.load_tokenizer(config))
    graphdef, params = init.abstract_params(lambda rngs: Qwen2_5_VL(sizes, rngs=rngs))
    params = load_params(config.weights, params)
    encode = jax.jit(lambda patches, layout: nnx.merge(graphdef, params).encode(patches, layout))
    bucket = build.vision_bucket(config, sizes)
    for image, vector in zip(PICTURES, embedder(PICTURES), strict=True):
        patches, grid = build.image_processor(config, sizes)(image.pixels)
        packed, layout = fill_chunk([(patches, grid)], bucket)
        tokens = np.asarray(encode(packed[None], type(layout)(*(leaf[None] for leaf in layout))))[0]
        mean = tokens[: grid[1] * grid[2] // 4].mean(axis=0)
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=ROUNDING)


def test_neighbours_and_order_do_not_matter_and_one_program_serves_all(embedder):
    together = embedder(PICTURES)
    assert together.dtype == np.float32 and together.shape == (5, 128)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-5)
    alone = np.concatenate([embedder([image]) for image in PICTURES])
    np.testing.assert_allclose(together, alone, atol=ROUNDING)
    np.testing.assert_allclose(embedder(PICTURES[::-1])[::-1], alone, atol=ROUNDING)
    assert np.abs(together[0] - together[1]).max() > 1000 * ROUNDING  # they differ at all
    assert embedder.n_compiled() == 1


def test_the_seed_draws_the_tower_of_a_run_without_weights(config):
    with config.copy_and_resolve_references().unlocked() as drawn:
        drawn.weights = ""
    sizes = build.model_config(drawn, build.load_tokenizer(drawn))
    make_model = build.model_maker(drawn, sizes, layout.make_placement(drawn))
    expected = init.init_params(make_model, drawn.seed)[1]["vision"]
    leaves = zip(
        nnx.to_flat_state(expected), nnx.to_flat_state(image_embedder.make_embedder(drawn).params), strict=True
    )
    for (path, one), (other_path, other) in leaves:
        assert path == other_path
        np.testing.assert_array_equal(one.get_value(), other.get_value())


def test_no_image_is_refused(embedder):
    with pytest.raises(ValueError, match="at least one image must be given"):
        embedder([])
