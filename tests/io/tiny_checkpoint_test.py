"""The small random checkpoint has the published layout, and loads."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arft_jax.data.tokenizer import Tokenizer
from arft_jax.io.tiny_checkpoint import make_tiny_checkpoint, random_params
from arft_jax.io.weights import abstract_params, load_model_config, load_params


@pytest.mark.parametrize("tied", [True, False])
def test_it_has_the_published_layout_and_loads(tmp_path, tied):
    config = make_tiny_checkpoint(tmp_path / "a", seed=3, tied=tied)
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert {"model.safetensors.index.json", "tokenizer.json", "preprocessor_config.json"} < names
    assert sum(name.endswith(".safetensors") for name in names) >= 2
    layout = json.loads((tmp_path / "a" / "config.json").read_text())
    assert "text_config" not in layout and layout["hidden_size"] == 128 and layout["vision_config"]["in_chans"] == 3
    assert layout["rope_scaling"]["mrope_section"] == [4, 6, 6] and layout["torch_dtype"] == "bfloat16"
    assert load_model_config(tmp_path / "a") == config and config.text.tied == tied
    assert config.text.vocab_size > Tokenizer.load(tmp_path / "a").vocab_size
    params = load_params(tmp_path / "a", abstract_params(config))
    for got, want in zip(jax.tree.leaves(params), jax.tree.leaves(random_params(config, 3)), strict=True):
        np.testing.assert_array_equal(got, want.astype(jnp.bfloat16).astype(jnp.float32))


@pytest.mark.torch
@pytest.mark.filterwarnings("default")
def test_transformers_loads_it_whole_with_its_tokenizer(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    make_tiny_checkpoint(tmp_path / "a", dtype="float32")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "a")
    assert config.text_config.hidden_size == 128 and config.text_config.eos_token_id == Tokenizer.tiny().eos_id
    model, info = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(
        tmp_path / "a", output_loading_info=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "a")
    assert model.generation_config.eos_token_id == [tokenizer.eos_token_id, tokenizer.pad_token_id]
