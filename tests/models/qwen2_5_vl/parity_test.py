"""The model against transformers on small random weights, in float32."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from arft_jax.io.weights import params_from_hf
from arft_jax.models.qwen2_5_vl import vision
from arft_jax.models.qwen2_5_vl.model import Qwen2_5_VL
from arft_jax.models.qwen2_5_vl.packing import count_windows, pack_layout
from arft_jax.models.qwen2_5_vl.positions import mrope_positions
from arft_jax.ops.attention import attend
from arft_jax.testing.tiny_model import tiny_config

pytestmark = pytest.mark.torch
TOLERANCE = 1e-4  # float32 in both, sums in another order; logits are of order 1 to 10
ODD = [(1, 10, 14), (1, 6, 22)]  # 5 x 7 and 3 x 11 merged, edge windows in both


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def pair(request):
    """(transformers' model, ours) with the same weights, norms and biases far from 1 and 0."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = tiny_config(tied=request.param)
    torch.manual_seed(0)
    theirs = transformers.Qwen2_5_VLForConditionalGeneration(transformers.Qwen2_5_VLConfig(**config.to_hf())).eval()
    with torch.no_grad():
        for name, value in theirs.named_parameters():
            if "norm" in name or "ln_q" in name:
                value.copy_(1.0 + 0.3 * torch.randn_like(value))
            elif name.endswith("bias"):
                value.copy_(0.3 * torch.randn_like(value))
            else:
                value.copy_(torch.randn_like(value) * value[0].numel() ** -0.5)
        theirs.tie_weights()
    ours = Qwen2_5_VL(config, rngs=nnx.Rngs(1))
    tensors = {name: value.numpy() for name, value in theirs.state_dict().items()}
    nnx.update(ours, params_from_hf(nnx.state(ours, nnx.Param), tensors))
    return theirs, ours


def _tokens(config, grids, framed):
    """Random text, an image, text, an image, ..., text; ``framed`` puts text between the images."""
    rng = np.random.default_rng(0)
    pieces = [rng.integers(0, 100, 5)]
    for grid in grids:
        image = np.full(grid[1] * grid[2] // 4, config.image_token_id)
        pieces += [[config.vision_start_token_id], image, [config.vision_end_token_id]]
        pieces += [rng.integers(0, 100, 7)] if framed else []
    return np.concatenate([*pieces, rng.integers(0, 100, 6)]).astype(np.int32)


def _theirs(model, tokens, patches, grids):
    import torch

    images = {}
    if grids:
        images = {"pixel_values": torch.tensor(patches), "image_grid_thw": torch.tensor(grids)}
    ids = torch.tensor(tokens[None].astype(np.int64))
    kinds = (ids == model.config.image_token_id).int()
    with torch.no_grad():
        return model(input_ids=ids, mm_token_type_ids=kinds, **images).logits[0].numpy()


def _ours(model, tokens, patches, grids):
    vision_config = model.config.vision
    window = (vision_config.window_px, vision_config.patch_px)
    features = jnp.zeros((0, model.config.text.dim))
    if grids:
        layout = pack_layout(grids, len(patches), count_windows(grids, *window), *window, 2)
        layout = type(layout)(*(jnp.asarray(a)[None] for a in layout))
        features = model.encode(jnp.asarray(patches)[None], layout)[0]
    is_image = tokens == model.config.image_token_id
    index = np.where(is_image, np.cumsum(is_image) - 1, -1).astype(np.int32)
    positions, _ = mrope_positions(tokens, grids, model.config.image_token_id, 2)
    embeds = model.embed(jnp.asarray(tokens)[None], features, jnp.asarray(index)[None])
    hidden = model.hidden(embeds, jnp.asarray(positions)[None], jnp.zeros((1, len(tokens)), jnp.int32))
    return np.asarray(model.logits(hidden)[0])


def _gap(pair, grids, framed=True):
    theirs, ours = pair
    tokens = _tokens(ours.config, grids, framed)
    n_patches = sum(h * w for _, h, w in grids)
    patches = np.random.default_rng(1).normal(size=(n_patches, 1176)).astype(np.float32)
    expected = _theirs(theirs, tokens, patches, grids)
    assert np.abs(expected).max() > 1.0  # the weights are not so small that anything passes
    return np.abs(_ours(ours, tokens, patches, grids) - expected).max()


@pytest.mark.parametrize("framed", [True, False], ids=["text_between", "adjacent"])
def test_logits_equal_transformers_with_two_images_of_odd_sizes(pair, framed):
    assert _gap(pair, ODD, framed) <= TOLERANCE


@pytest.mark.parametrize("grids", [[], [(1, 10, 14)], [(1, 2, 2)], [(1, 16, 8), (1, 4, 4), (1, 18, 10)]])
def test_logits_equal_transformers_with_any_number_of_images(pair, grids):
    assert _gap(pair, grids) <= TOLERANCE


def test_a_band_mask_in_place_of_windows_is_seen(pair, monkeypatch):
    def banded(q, k, v, layout):
        at = jnp.arange(q.shape[1])
        near = jnp.abs(at[None, :, None] - at[None, None, :]) < layout.window_index.shape[2] // 2
        return attend(q, k, v, near & (layout.segment_ids >= 0)[:, None, :])

    monkeypatch.setattr(vision, "attend_windowed", banded)
    assert _gap(pair, ODD) > 100 * TOLERANCE


def test_vision_rotary_angles_in_bfloat16_are_seen(pair, monkeypatch):
    exact = vision.axial_angles
    monkeypatch.setattr(vision, "axial_angles", lambda *a: exact(*a).astype(jnp.bfloat16).astype(jnp.float32))
    assert _gap(pair, ODD) > 10 * TOLERANCE
