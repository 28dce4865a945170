"""Which published tensor is which parameter of Qwen2.5-VL, and each of them turned into the other.

Both key layouts are read: ``visual.* model.* lm_head`` of the published files, which is also what is written, and
``model.visual.* model.language_model.*`` of later ones. Kernels there are [out, in]; here they are [in, out] with the
head axes apart, and layers are stacked, so one rule serves all: reshape and transpose, which are views of one array.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

from arft_jax.models.qwen2_5_vl.config import VisionConfig

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

DTYPES = ("float32", "float16", "bfloat16")
_PREFIXES = (("model.visual.", "visual."), ("model.language_model.", "text."), ("model.", "text."))
_PATCH_EMBED = "vision.patch_embed.kernel"
_TWO_INPUT_AXES = ("text.layers.o.kernel", "vision.blocks.proj.kernel")
_IGNORED = ("rotary_emb.inv_freq", "rotary_pos_emb.inv_freq")  # computed, kept by some old files


class Header(NamedTuple):
    """What is known of a tensor before its values are read: shape and the name of its type."""

    shape: tuple[int, ...]
    dtype: str


class Assignment(NamedTuple):
    """A parameter and the tensors that fill it.

    Args:
      keys: its place in the state.
      path: the same as dotted text.
      variable: the parameter, abstract or not; its shape and type are the ones to fill.
      names: the tensors: one, or one for each layer where the parameter is stacked.
      stacked: whether its first axis is the layer.
    """

    keys: tuple[Any, ...]
    path: str
    variable: nnx.Variable
    names: tuple[str, ...]
    stacked: bool

    @property
    def piece_shape(self) -> tuple[int, ...]:
        """Shape of what one tensor fills."""
        return tuple(self.variable.shape)[int(self.stacked) :]


def normalise(name: str) -> str:
    """The name that both layouts share.

    >>> normalise("model.layers.0.x"), normalise("model.language_model.layers.0.x")
    ('text.layers.0.x', 'text.layers.0.x')
    """
    for prefix, short in _PREFIXES:
        if name.startswith(prefix):
            return short + name.removeprefix(prefix)
    return name


def published_name(name: str) -> str:
    """A normalised name in the published layout: ``text.layers.0.x`` -> model.layers.0.x."""
    return "model." + name.removeprefix("text.") if name.startswith("text.") else name


def _in_out(path: str, shape: tuple[int, ...]) -> tuple[int, int]:
    n_inputs = 2 if path in _TWO_INPUT_AXES else 1
    return math.prod(shape[:n_inputs]), math.prod(shape[n_inputs:])


def _fits(path: str, shape: tuple[int, ...], found: tuple[int, ...]) -> bool:
    """Whether a published tensor of shape ``found`` is a parameter of ``shape``."""
    if path == "text.unembedding":
        return found == shape[::-1]
    if path.endswith(".bias"):
        return found == (math.prod(shape),)
    if not path.endswith(".kernel"):
        return found == shape
    if path == _PATCH_EMBED and len(found) > 1:  # published as a convolution [out, channels, frames, row, column]
        found = (found[0], math.prod(found[1:]))
    return found == _in_out(path, shape)[::-1]


def as_published(path: str, value: np.ndarray) -> np.ndarray:
    """A contiguous parameter, or one layer of it, seen as its published tensor: [*inputs, *outputs] -> [out, in].

    A view, so it serves both ways: what is read is written into it, what is exported is read from it.
    """
    if path == "text.unembedding":
        return value.T
    if path.endswith(".bias"):
        return value.reshape(-1)
    if path.endswith(".kernel"):
        return value.reshape(_in_out(path, value.shape)).T
    return value


def published_shape(path: str, shape: tuple[int, ...], vision: VisionConfig) -> tuple[int, ...]:
    """Shape in the file: that of :func:`as_published`, but the patch embedding is a convolution's of rank 5."""
    blank = np.broadcast_to(np.int8(0), (math.prod(shape),)).reshape(shape)
    found = as_published(path, blank).shape
    if path == _PATCH_EMBED:
        return found[0], vision.channels, vision.temporal_patch, vision.patch_px, vision.patch_px
    return found


def sources(params: nnx.State) -> tuple[list[Assignment], list[str]]:
    """Each parameter with the normalised names that fill it, and the parameters that no name is known for."""
    found, problems = [], []
    for keys, variable in nnx.to_flat_state(params):
        path = ".".join(str(key) for key in keys)
        if path not in NAMES:
            problems.append(f"no rule for parameter {path}")
            continue
        stacked = "{}" in NAMES[path]
        n_names = variable.shape[0] if stacked else 1
        names = tuple(NAMES[path].format(layer) for layer in range(n_names))
        found.append(Assignment(keys, path, variable, names, stacked))
    return found, problems


def assign(params: nnx.State, headers: Mapping[str, Header], is_same: Callable[[str, str], bool]) -> list[Assignment]:
    """Accounts for every tensor and every parameter, before any value is placed.

    Args:
      params: ``nnx.state(model, nnx.Param)``, abstract or not.
      headers: of every tensor, by its name in the file.
      is_same: whether two tensors have the same values; asked only of a tied model's repeated ``lm_head``.

    Returns:
      One assignment for each parameter, its names as they are in the file.

    Raises:
      ValueError: unmapped names, unassigned parameters, shape clashes and types that are no float, all in one message.
    """
    kept = [name for name in headers if not name.endswith(_IGNORED)]
    available = {normalise(name): name for name in kept}
    assignments, problems = sources(params)
    if len(available) < len(kept):
        problems.append("names of both layouts for one tensor")
    unused, done = dict(available), []
    for wanted in assignments:
        names = []
        for name in wanted.names:
            original = available.get(name)
            unused.pop(name, None)
            if original is None:
                problems.append(f"unassigned: {wanted.path} needs {name}")
                continue
            names.append(original)
            shape, dtype = headers[original]
            if not _fits(wanted.path, wanted.piece_shape, shape):
                problems.append(f"shape clash: {original} is {shape}, {wanted.path} is {tuple(wanted.variable.shape)}")
            if dtype not in DTYPES:
                problems.append(f"type: {original} is {dtype}, must be among {DTYPES}")
        done.append(wanted._replace(names=tuple(names)))
    problems += _check_tied(unused, available, headers, is_same)
    problems += [f"unmapped: {original}" for original in unused.values()]
    if problems:
        raise ValueError(f"{len(problems)} problems in the state dict: " + "; ".join(problems))
    return done


def _check_tied(
    unused: dict[str, str], available: Mapping[str, str], headers: Mapping[str, Header], is_same: Callable
) -> list[str]:
    """A tied model's file may repeat the embedding as lm_head; it must then be the same."""
    embedding = available.get(NAMES["text.embedding"])
    head = unused.get("lm_head.weight")
    if head is None or embedding is None:
        return []
    del unused["lm_head.weight"]
    if headers[head].shape == headers[embedding].shape and is_same(head, embedding):
        return []
    return [f"{head} differs from {embedding}, but the configuration ties them (tie_word_embeddings)"]
