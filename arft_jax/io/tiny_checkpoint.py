"""A small random Qwen2.5-VL in the layout of the published directories: what loaders are tried on."""

import json
import os

import jax.numpy as jnp
import numpy as np
from flax import nnx

from arft_jax.data.tokenizer import Tokenizer
from arft_jax.io import hf_files
from arft_jax.io.export import save_params
from arft_jax.io.weights import CONFIG, MODEL_TYPE, abstract_params
from arft_jax.models.qwen2_5_vl.config import ModelConfig, TextConfig, VisionConfig

N_IDS = 1088  # the embedded tokenizer's 1024 ids and some padding, as the published vocabularies have


def tiny_model_config(tied: bool = False) -> ModelConfig:
    """About 0.6 M parameters: grouped heads, windowed and full vision blocks, the embedded tokenizer's ids."""
    tokenizer = Tokenizer.tiny()
    return ModelConfig(
        text=TextConfig(
            vocab_size=N_IDS, dim=128, mlp_dim=256, n_layers=3, n_heads=4, n_kv_heads=2, mrope_section=(4, 6, 6),
            rope_theta=1_000_000.0, tied=tied, max_positions=4096,
        ),
        vision=VisionConfig(dim=64, mlp_dim=128, n_layers=4, n_heads=4, out_dim=128, full_layers=(1, 3)),
        image_token_id=tokenizer.image_pad_id,
        video_token_id=tokenizer.video_pad_id,
        vision_start_token_id=tokenizer.vision_start_id,
        vision_end_token_id=tokenizer.vision_end_id,
    )  # fmt: skip


def random_params(config: ModelConfig, seed: int) -> nnx.State:
    """Kernels of deviation 0.05, norm scales around 1 and biases around 0, so that no parameter is trivial."""
    rng = np.random.default_rng(seed)
    filled = []
    for keys, variable in nnx.to_flat_state(abstract_params(config)):
        values = rng.normal(float(keys[-1] == "scale"), 0.05, variable.shape)
        filled.append((keys, variable.replace(jnp.asarray(values.astype(np.float32)))))
    return nnx.from_flat_state(filled)


def published_layout(config: ModelConfig) -> dict:
    """``config.json`` as the published checkpoints have it: the decoder's keys at the top, ``in_chans``."""
    layout = config.to_hf()
    text = {key: value for key, value in layout.pop("text_config").items() if key != "model_type"}
    vision = {key: value for key, value in layout.pop("vision_config").items() if key != "model_type"}
    vision["in_chans"] = vision.pop("in_channels")
    return {**layout, **text, "model_type": MODEL_TYPE, "use_sliding_window": False, "vision_config": vision}


def make_tiny_checkpoint(
    directory: str | os.PathLike, *, seed: int = 0, dtype: str = "bfloat16", tied: bool = False
) -> ModelConfig:
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
    text, vision = config.text, config.vision
    layout = published_layout(config) | hf_files.token_ids(Tokenizer.tiny()) | {"torch_dtype": dtype}
    save_params(
        directory,
        random_params(config, seed),
        config,
        dtype=dtype,
        max_shard_bytes=2 * text.vocab_size * text.dim * jnp.dtype(dtype).itemsize,
        files={
            **hf_files.tokenizer_files(),
            **hf_files.preprocessor_file(56 * 56, 28 * 28 * 1280, vision.patch_px, vision.merge),
            CONFIG: (json.dumps(layout, indent=2) + "\n").encode(),
        },
    )
    return config
