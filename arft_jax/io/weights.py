"""Published Qwen2.5-VL state dicts -> parameters of the model.

Both key layouts are read: ``visual.* model.* lm_head`` of the published files and ``model.visual.*
model.language_model.*`` of later ones. Kernels there are [out, in]; here they are [in, out] with the head
axes apart, and layers are stacked, so one rule serves all: transpose, reshape, stack.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

# Path in the model -> name in the normalised state dict; {} is the layer.
_LAYER = "text.layers.{}."
_BLOCK = "visual.blocks.{}."
NAMES = {
    "text.embedding": "text.embed_tokens.weight",
    "text.unembedding": "lm_head.weight",
    "text.norm.scale": "text.norm.weight",
    "text.layers.norm1.scale": _LAYER + "input_layernorm.weight",
    "text.layers.norm2.scale": _LAYER + "post_attention_layernorm.weight",
    "vision.patch_embed.kernel": "visual.patch_embed.proj.weight",
    "vision.blocks.norm1.scale": _BLOCK + "norm1.weight",
    "vision.blocks.norm2.scale": _BLOCK + "norm2.weight",
    "vision.merger.norm.scale": "visual.merger.ln_q.weight",
}
_LINEARS = {
    **{f"text.layers.{name}": f"{_LAYER}self_attn.{name}_proj" for name in "qkvo"},
    **{f"text.layers.mlp.{name}": f"{_LAYER}mlp.{name}_proj" for name in ("gate", "up", "down")},
    **{f"vision.blocks.mlp.{name}": f"{_BLOCK}mlp.{name}_proj" for name in ("gate", "up", "down")},
    **{f"vision.blocks.{name}": f"{_BLOCK}attn.{name}" for name in ("qkv", "proj")},
    "vision.merger.up": "visual.merger.mlp.0",
    "vision.merger.down": "visual.merger.mlp.2",
}
for _ours, _theirs in _LINEARS.items():
    NAMES[f"{_ours}.kernel"] = f"{_theirs}.weight"
    NAMES[f"{_ours}.bias"] = f"{_theirs}.bias"

_PREFIXES = (("model.visual.", "visual."), ("model.language_model.", "text."), ("model.", "text."))
_TWO_INPUT_AXES = ("text.layers.o.kernel", "vision.blocks.proj.kernel")
_IGNORED = ("rotary_emb.inv_freq", "rotary_pos_emb.inv_freq")  # computed, kept by some old files


def _normalise(name: str) -> str:
    for prefix, short in _PREFIXES:
        if name.startswith(prefix):
            return short + name.removeprefix(prefix)
    return name


def _convert(path: str, tensor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """One tensor in our layout, or None where its shape is not the one that ``shape`` calls for."""
    if path == "text.unembedding":
        return tensor.T if tensor.shape == shape[::-1] else None
    if not path.endswith(".kernel"):
        if path.endswith(".bias"):
            return tensor.reshape(shape) if tensor.shape == (int(np.prod(shape)),) else None
        return tensor if tensor.shape == shape else None
    n_inputs = 2 if path in _TWO_INPUT_AXES else 1
    want = (int(np.prod(shape[n_inputs:])), int(np.prod(shape[:n_inputs])))
    if tensor.ndim < 2 or (tensor.shape[0], int(np.prod(tensor.shape[1:]))) != want:
        return None
    return tensor.reshape(want).T.reshape(shape)


def params_from_hf(params: nnx.State, tensors: Mapping[str, np.ndarray]) -> nnx.State:
    """The parameters with the values of a published state dict; ``nnx.update(model, result)`` sets them.

    Args:
      params: ``nnx.state(model, nnx.Param)``, abstract or not: paths, shapes and types are read.
      tensors: name -> array.

    Returns:
      A state of the same structure, in the types of ``params``.

    Raises:
      ValueError: unmapped names, unassigned parameters and shape clashes, all in one message.
    """
    available = {_normalise(name): name for name in tensors if not name.endswith(_IGNORED)}
    unused, problems, leaves = dict(available), [], []
    if len(available) < sum(not name.endswith(_IGNORED) for name in tensors):
        problems.append("names of both layouts for one tensor")
    for keys, variable in nnx.to_flat_state(params):
        path = ".".join(str(key) for key in keys)
        if path not in NAMES:
            problems.append(f"no rule for parameter {path}")
            continue
        template = NAMES[path]
        shape, stacked = tuple(variable.shape), "{}" in template
        names = [template.format(layer) for layer in range(shape[0])] if stacked else [template]
        pieces: list[np.ndarray] = []
        for name in names:
            if name not in available:
                problems.append(f"unassigned: {path} needs {name}")
                continue
            unused.pop(name, None)
            tensor = np.asarray(tensors[available[name]])
            piece = _convert(path, tensor, shape[1:] if stacked else shape)
            if piece is None:
                problems.append(f"shape clash: {available[name]} is {tensor.shape}, {path} is {shape}")
            else:
                pieces.append(piece)
        if len(pieces) == len(names):
            value = np.stack(pieces) if stacked else pieces[0]
            leaves.append((keys, variable.replace(jnp.asarray(value.astype(variable.dtype)))))
    problems += _check_tied(unused, tensors, available)
    problems += [f"unmapped: {original}" for original in unused.values()]
    if problems:
        raise ValueError(f"{len(problems)} problems in the state dict: " + "; ".join(problems))
    return nnx.from_flat_state(leaves)


def _check_tied(unused: dict[str, str], tensors: Mapping[str, Any], available: Mapping[str, str]) -> list[str]:
    """A tied model's file may repeat the embedding as lm_head; it must then be the same."""
    embedding = available.get(NAMES["text.embedding"])
    head = unused.get("lm_head.weight")
    if head is None or embedding is None:
        return []
    del unused["lm_head.weight"]
    if np.array_equal(np.asarray(tensors[head]), np.asarray(tensors[embedding])):
        return []
    return [f"{head} differs from {embedding}, but the configuration ties them (tie_word_embeddings)"]
