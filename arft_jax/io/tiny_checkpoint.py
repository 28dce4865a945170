"""A small random model of the default family in the layout of the published directories: what loaders are tried on."""

import json
import os

import jax.numpy as jnp
import numpy as np
from flax import nnx

from arft_jax.data.tokenizer import Tokenizer
from arft_jax.io import hf_files
from arft_jax.io.export import save_params
from arft_jax.io.weights import CONFIG, abstract_params
from arft_jax.models.families import DEFAULT
from arft_jax.models.family import Sizes

N_IDS = 1088  # the embedded tokenizer's 1024 ids and some padding, as the published vocabularies have


def tiny_model_config(tied: bool = False) -> Sizes:
    """About 0.6 M parameters: grouped heads, windowed and full vision blocks, the embedded tokenizer's ids."""
    tokenizer = Tokenizer.tiny()
    text = dict(
        vocab_size=N_IDS, hidden_size=128, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, mrope_section=(4, 6, 6), rope_theta=1_000_000.0, rms_norm_eps=1e-6,
        tie_word_embeddings=tied, max_position_embeddings=4096,
    )  # fmt: skip
    vision = dict(
        hidden_size=64, intermediate_size=128, depth=4, num_heads=4, out_hidden_size=128, tokens_per_second=2,
        fullatt_block_indexes=(1, 3),
    )  # fmt: skip
    control_ids = {name: tokenizer.control_id(content) for name, content in DEFAULT.control_ids.items()}
    return DEFAULT.config_from_hf(dict(text_config=text, vision_config=vision, **control_ids))


def random_params(config: Sizes, seed: int) -> nnx.State:
    """Kernels of deviation 0.05, norm scales around 1 and biases around 0, so that no parameter is trivial."""
    rng = np.random.default_rng(seed)
    filled = []
    for keys, variable in nnx.to_flat_state(abstract_params(config)):
        values = rng.normal(float(keys[-1] == "scale"), 0.05, variable.shape)
        filled.append((keys, variable.replace(jnp.asarray(values.astype(np.float32)))))
    return nnx.from_flat_state(filled)


def published_layout(config: Sizes) -> dict:
    """``config.json`` as the published checkpoints have it: the decoder's keys at the top, ``in_chans``."""
    layout = config.to_hf()
    text = {key: value for key, value in layout.pop("text_config").items() if key != "model_type"}
    vision = {key: value for key, value in layout.pop("vision_config").items() if key != "model_type"}
    vision["in_chans"] = vision.pop("in_channels")
    return {**layout, **text, "use_sliding_window": False, "vision_config": vision}


def make_tiny_checkpoint(
    directory: str | os.PathLike, *, seed: int = 0, dtype: str = "bfloat16", tied: bool = False
) -> Sizes:
    """Writes two or more shards, their index, config.json in the flat layout, tokenizer and processor files.

    Args:
      directory: new or empty.
      seed: of the weights.
      dtype: type on disk, float32 or bfloat16.
      tied: whether the unembedding is the embedding (as in the 3B model) or a tensor of its own (as in 7B to 72B).

    Returns:
      The model's sizes.

    Raises:
      ValueError: a directory that is not empty, another type.
    """
    config = tiny_model_config(tied)
    text = config.text
    layout = published_layout(config) | hf_files.token_ids(Tokenizer.tiny()) | {"torch_dtype": dtype}
    save_params(
        directory,
        random_params(config, seed),
        config,
        dtype=dtype,
        max_shard_bytes=2 * text.vocab_size * text.dim * jnp.dtype(dtype).itemsize,
        files={
            **hf_files.tokenizer_files(),
            **hf_files.preprocessor_file(56 * 56, 28 * 28 * 1280, config),
            CONFIG: (json.dumps(layout, indent=2) + "\n").encode(),
        },
    )
    return config
