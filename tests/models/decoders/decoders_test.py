"""Llama and Qwen2 from their directories, held to stored logits of transformers (arft_jax/testing/decoders.py)."""

import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from arft_jax.io.weights import abstract_params, load_model_config, load_params
from arft_jax.models.decoders.config import DecoderConfig, with_tower
from arft_jax.models.decoders.packing import TEXT_ONLY, sequential_positions
from arft_jax.models.families import family_of
from arft_jax.testing import decoders
from arft_jax.testing.parity import tolerance

STORED = pathlib.Path(__file__).with_name("tiny.npz")
KINDS = ("llama", "qwen2")
LLAMA = decoders.tiny_sizes("llama").to_hf()


def logits_of(model, tokens):
    """float32[B, T, V] of whole sequences of a text model."""
    shape = tokens.shape
    embeds = model.embed(jnp.asarray(tokens), jnp.zeros((0, 1)), jnp.full(shape, -1, jnp.int32))
    positions = np.stack([sequential_positions(row, (), -1)[0] for row in tokens])
    return np.asarray(model.logits(model.hidden(embeds, jnp.asarray(positions), jnp.zeros(shape, jnp.int32))))


def loaded(folder):
    """The model of a directory."""
    sizes = load_model_config(folder)
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: sizes.family.make(sizes, rngs=nnx.Rngs(0))))
    return nnx.merge(graphdef, load_params(folder, abstract_params(sizes)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_logits_are_those_of_transformers(tmp_path, kind):
    decoders.save_tiny(tmp_path, kind)
    ours = logits_of(loaded(tmp_path), decoders.tiny_tokens())
    theirs = np.load(STORED)[kind]
    assert np.abs(theirs).max() > 5
    assert np.abs(ours[:, :, :: decoders.COLUMNS["tiny"]] - theirs).max() < tolerance(theirs)


@pytest.mark.torch
@pytest.mark.parametrize("kind", KINDS)
def test_the_stored_logits_are_those_of_the_installed_transformers(kind):
    theirs = decoders.theirs_tiny(kind)[:, :, :: decoders.COLUMNS["tiny"]]
    assert np.abs(np.load(STORED)[kind] - theirs).max() < tolerance(theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_survive_their_own_layout(tmp_path, kind):
    sizes = decoders.save_tiny(tmp_path, kind)
    assert load_model_config(tmp_path) == sizes == DecoderConfig.from_hf(sizes.to_hf())
    assert sizes.family is family_of(kind) and sizes.vision is None and sizes.text.qkv_bias == (kind == "qwen2")
    tower = dict(hidden_size=32, intermediate_size=56, depth=2, num_heads=2, fullatt_block_indexes=(1,))
    ids = dict(image_token_id=1088, video_token_id=1089, vision_start_token_id=1090, vision_end_token_id=1091)
    seeing = with_tower(sizes, tower, ids, 1092)
    assert DecoderConfig.from_hf(seeing.to_hf()) == seeing
    assert seeing.vision.out_dim == 64 and seeing.text.vocab_size == 1152  # 1092 and padding, to 9 * 128
    assert with_tower(sizes, tower, dict(ids, image_token_id=9), 1088).text.vocab_size == 1088


@pytest.mark.parametrize(
    "change, sentence",
    [
        (dict(rope_scaling=dict(rope_type="llama3", factor=8.0)), "rope type must be default: got 'llama3'"),
        (dict(attention_bias=True), "attention_bias must be False: got True"),
        (dict(mlp_bias=True), "mlp_bias must be False: got True"),
        (dict(head_dim=32), "head_dim must be hidden_size / num_attention_heads = 16: got 32"),
        (dict(hidden_act="gelu"), "hidden_act must be 'silu': got 'gelu'"),
        (dict(model_type="qwen2", use_sliding_window=True), "use_sliding_window must be False: got True"),
        (dict(num_key_value_heads=3), "must be a multiple of num_key_value_heads: got N=4, K=3"),
        (dict(hidden_size=None), "hidden_size must be a whole number from 1 to 1048576: got None"),
    ],
)
def test_what_the_decoder_does_not_have_is_refused(tmp_path, change, sentence):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | change))
    with pytest.raises(ValueError, match=f"config.json: .*{sentence}.*config.weights"):
        load_model_config(tmp_path)


def test_what_old_files_leave_out_has_the_published_defaults():
    old = {key: LLAMA[key] for key in LLAMA if key not in ("num_key_value_heads", "rope_theta", "tie_word_embeddings")}
    text = DecoderConfig.from_hf(old).text
    assert (text.n_kv_heads, text.rope_theta, text.tied) == (4, 10_000.0, False)
    new = {**old, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}  # transformers 5
    assert DecoderConfig.from_hf(new).text.rope_theta == 5e5


def test_a_text_model_packs_no_image():
    layout = TEXT_ONLY.layout([], 8, 2)
    assert layout.segment_ids.tolist() == [-1] * 8 and TEXT_ONLY.patch_dim == 1
    with pytest.raises(ValueError, match=r"must have a policy with a vision tower: got 1 \(config.model.vision\)"):
        TEXT_ONLY.layout([(1, 4, 4)], 64, 2)
    model = nnx.eval_shape(lambda: family_of("llama").make(decoders.tiny_sizes("llama"), rngs=nnx.Rngs(0)))
    assert model.vision is None
    assert model.encode(jnp.zeros((2, 8, 1)), layout).shape == (2, 2, 64)
