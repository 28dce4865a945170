"""Tiny models of the true architecture: full and windowed blocks, grouped heads, uneven M-RoPE sections."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from arft_jax.models.layers import Linear
from arft_jax.models.qwen2_5_vl.config import ModelConfig, TextConfig, VisionConfig
from arft_jax.models.qwen2_5_vl.family import QWEN2_5_VL
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


TINY_PACKING = QWEN2_5_VL.packing(tiny_config())  # patches of 14 px, merged 2 x 2, windows of 112 px


def tiny_model(config: ModelConfig | None = None, *, seed: int = 0, noise: float = 0.2, **kwargs: Any) -> Qwen2_5_VL:
    """A random model whose norms and biases are not trivial.

    Values are drawn by numpy, so that nothing is compiled: kernels with deviation 1/sqrt(fan in), norm
    scales around 1, biases around 0.

    Args:
      config: sizes; :func:`tiny_config` where None.
      seed: of all draws.
      noise: deviation of norm scales and biases, so that none is 1 or 0.
      **kwargs: dtype, param_dtype and remat of the model.
    """
    config = config or tiny_config()
    model = nnx.eval_shape(lambda: Qwen2_5_VL(config, rngs=nnx.Rngs(0), **kwargs))
    state = nnx.state(model, nnx.Param)
    rng = np.random.default_rng(seed)
    fan_in = {path: _fan_in(node) for path, node in nnx.iter_graph(model) if isinstance(node, Linear)}
    filled = []
    for path, param in nnx.to_flat_state(state):
        if path[-1] in ("scale", "bias"):
            std = noise
        else:
            std = fan_in.get(path[:-1], config.text.dim) ** -0.5
        value = std * rng.normal(size=param.shape) + float(path[-1] == "scale")
        filled.append((path, param.replace(jnp.asarray(value.astype(np.float32)).astype(param.dtype))))
    nnx.update(model, nnx.from_flat_state(filled))
    return model


def _fan_in(layer: Linear) -> int:
    shape = layer.kernel.shape
    first = int(layer.kernel.get_metadata("axes")[0] == "layers")
    return int(np.prod(shape[first : first + layer.n_inputs]))
