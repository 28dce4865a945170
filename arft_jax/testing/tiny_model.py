"""Tiny models of the true architecture: full and windowed blocks, grouped heads, uneven M-RoPE sections."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from arft_jax.models.qwen2_5_vl.config import ModelConfig, TextConfig, VisionConfig
from arft_jax.models.qwen2_5_vl.model import Qwen2_5_VL


def tiny_config(*, tied: bool = True, vocab_size: int = 160, **text_changes: Any) -> ModelConfig:
    """A model of about 0.3 M parameters; control tokens are the last four of the vocabulary.

    Args:
      tied: whether embeddings are tied.
      vocab_size: V.
      **text_changes: fields of TextConfig to set differently (``dim`` is not one of them).
    """
    text = TextConfig(
        vocab_size=vocab_size, dim=48, mlp_dim=80, n_layers=3, n_heads=4, n_kv_heads=2,
        mrope_section=(1, 2, 3), rope_theta=10_000.0, tied=tied, max_positions=4096,
    )  # fmt: skip
    vision = VisionConfig(dim=32, mlp_dim=56, n_layers=4, n_heads=2, out_dim=48, full_layers=(1, 3))
    return ModelConfig(
        text=dataclasses.replace(text, **text_changes),
        vision=vision,
        image_token_id=vocab_size - 1,
        video_token_id=vocab_size - 2,
        vision_start_token_id=vocab_size - 3,
        vision_end_token_id=vocab_size - 4,
    )


def tiny_model(config: ModelConfig | None = None, *, seed: int = 0, noise: float = 0.2, **kwargs: Any) -> Qwen2_5_VL:
    """A random model whose norms and biases are not trivial.

    Args:
      config: sizes; :func:`tiny_config` where None.
      seed: of all draws.
      noise: deviation added to every norm scale and bias, so that none is 1 or 0.
      **kwargs: dtype, param_dtype and remat of the model.
    """
    model = Qwen2_5_VL(config or tiny_config(), rngs=nnx.Rngs(seed), **kwargs)
    rng = jax.random.key(seed + 1)
    for path, node in nnx.iter_graph(model):
        if isinstance(node, nnx.Param) and path[-1] in ("scale", "bias"):
            rng, key = jax.random.split(rng)
            value = node[...]
            node[...] = value + noise * jax.random.normal(key, value.shape, jnp.float32).astype(value.dtype)
    return model
