"""Names of both layouts and the turning of a parameter into its tensor."""

import numpy as np
import pytest

from arft_jax.io.weight_rules import as_published, normalise, published_name, published_shape
from arft_jax.models.qwen2_5_vl.weight_names import WEIGHTS
from arft_jax.testing.tiny_model import tiny_config


@pytest.mark.parametrize(
    "published, later",
    [
        ("model.layers.0.mlp.up_proj.weight", "model.language_model.layers.0.mlp.up_proj.weight"),
        ("model.embed_tokens.weight", "model.language_model.embed_tokens.weight"),
        ("visual.blocks.1.attn.qkv.bias", "model.visual.blocks.1.attn.qkv.bias"),
        ("lm_head.weight", "lm_head.weight"),
    ],
)
def test_both_layouts_have_one_name_and_the_published_one_is_written(published, later):
    assert normalise(published, WEIGHTS) == normalise(later, WEIGHTS)
    assert published_name(normalise(later, WEIGHTS), WEIGHTS) == published


def test_a_published_tensor_is_a_view_of_its_parameter():
    value = np.arange(24).reshape(2, 3, 4)  # [in, heads, head dim]
    seen = as_published("text.layers.q.kernel", value, WEIGHTS)
    assert seen.shape == (12, 2) and seen[5, 1] == value[1, 1, 1] == 17
    seen[5, 1] = -1
    assert value[1, 1, 1] == -1
    out = as_published("text.layers.o.kernel", value, WEIGHTS)  # [heads, head dim, out]
    assert out.shape == (4, 6) and out[1, 4] == value[1, 1, 1]
    assert all(np.shares_memory(as_published(path, value, WEIGHTS), value) for path in WEIGHTS.names)


def test_the_patch_embedding_is_published_as_a_convolution():
    sizes = tiny_config()
    assert published_shape("vision.patch_embed.kernel", (1176, 32), sizes) == (32, 3, 2, 14, 14)
    assert published_shape("text.unembedding", (48, 160), sizes) == (160, 48)
    assert published_shape("vision.blocks.qkv.bias", (3, 2, 16), sizes) == (96,)
