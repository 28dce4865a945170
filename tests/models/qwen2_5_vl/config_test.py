"""Configurations read from both published layouts."""

import dataclasses

import pytest
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig

from arft_jax.models.qwen2_5_vl.config import ModelConfig
from arft_jax.models.qwen2_5_vl.published import published
from arft_jax.testing.tiny_model import tiny_config

FLAT = {
    "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
    "num_key_value_heads": 4, "vocab_size": 152064, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
    "max_position_embeddings": 128000, "tie_word_embeddings": False, "use_sliding_window": False,
    "image_token_id": 151655, "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "vision_config": {
        "depth": 32, "hidden_act": "silu", "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16,
        "in_chans": 3, "out_hidden_size": 3584, "patch_size": 14, "spatial_merge_size": 2, "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31], "tokens_per_second": 2, "temporal_patch_size": 2,
    },
}  # fmt: skip


def test_the_flat_layout_is_read():
    config = ModelConfig.from_hf(FLAT)
    assert config.text.head_dim == 128 and config.text.mrope_section == (16, 24, 24) and not config.text.tied
    assert config.vision.patch_dim == 3 * 2 * 14 * 14 and config.vision.window_len == 64
    assert config.vision.full_layers == (7, 15, 23, 31)


@pytest.mark.parametrize("tied", [True, False])
def test_writing_and_reading_gives_the_same(tied):
    config = tiny_config(tied=tied)
    assert ModelConfig.from_hf(config.to_hf()) == config
    assert ModelConfig.from_hf(ModelConfig.from_hf(FLAT).to_hf()) == ModelConfig.from_hf(FLAT)


def test_rope_parameters_of_later_files_are_read():
    later = tiny_config().to_hf()
    text = later["text_config"]
    section = text.pop("rope_scaling")["mrope_section"]
    text["rope_parameters"] = {"rope_type": "default", "mrope_section": section, "rope_theta": text.pop("rope_theta")}
    assert ModelConfig.from_hf(later) == tiny_config()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_sliding_window": True}, "use_sliding_window must be false"),
        ({"rope_scaling": {"type": "yarn", "mrope_section": [16, 24, 24]}}, "rope type must be default or mrope"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 23]}}, "summing to head_dim / 2 = 64"),
        ({"num_key_value_heads": 5}, "N=28, K=5"),
        ({"hidden_act": "gelu"}, "hidden_act must be silu"),
    ],
)
def test_what_the_model_does_not_have_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig.from_hf({**FLAT, **change})


def test_a_missing_key_is_named():
    with pytest.raises(ValueError, match="lacks the key 'vocab_size'"):
        ModelConfig.from_hf({key: value for key, value in FLAT.items() if key != "vocab_size"})


def test_what_a_short_vision_config_leaves_out_is_as_in_transformers():
    """transformers 4.49 to 4.51 write the vision keys that differ from their class's defaults, and no others."""
    left_out = ("depth", "intermediate_size", "num_heads", "patch_size", "spatial_merge_size", "window_size")
    left_out += ("fullatt_block_indexes", "temporal_patch_size", "out_hidden_size", "hidden_act")
    short = {key: value for key, value in FLAT["vision_config"].items() if key not in left_out}
    assert ModelConfig.from_hf({**FLAT, "vision_config": short}) == ModelConfig.from_hf(FLAT) == published("7b")
    theirs = Qwen2_5_VLVisionConfig(hidden_size=1280).to_dict()
    assert ModelConfig.from_hf({**FLAT, "vision_config": {"hidden_size": 1280}}) == ModelConfig.from_hf(
        {**FLAT, "vision_config": theirs}
    )
    with pytest.raises(ValueError, match=r"out_hidden_size must equal .*: got 3584 and 2048"):
        ModelConfig.from_hf({**FLAT, "hidden_size": 2048, "num_attention_heads": 16, "vision_config": short})
    with pytest.raises(ValueError, match="lacks the key 'vision_config.hidden_size'"):
        ModelConfig.from_hf({**FLAT, "vision_config": {"depth": 32}})


def test_features_must_be_as_wide_as_the_decoder():
    with pytest.raises(ValueError, match="got 40 and 48"):
        config = tiny_config()
        dataclasses.replace(config, vision=dataclasses.replace(config.vision, out_dim=40))
