"""Which published tensor is which parameter, by the names of a model family, and each of them turned into the other.

Published kernels are [out, in]; here they are [in, out] with the head axes apart, and layers are stacked, so one rule
serves all: reshape and transpose, which are views of one array.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

from arft_jax.models.family import Sizes, WeightNames

DTYPES = ("float32", "float16", "bfloat16")


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


def normalise(name: str, rules: WeightNames) -> str:
    """The name that all layouts of a family share: model.language_model.layers.0.x -> ``text.layers.0.x``."""
    return _renamed(name, rules.prefixes)


def published_name(name: str, rules: WeightNames) -> str:
    """A normalised name in the published layout: ``text.layers.0.x`` -> model.layers.0.x."""
    return _renamed(name, rules.written)


def _renamed(name: str, prefixes: Sequence[tuple[str, str]]) -> str:
    for prefix, other in prefixes:
        if name.startswith(prefix):
            return other + name.removeprefix(prefix)
    return name


def _is_kernel(path: str, rules: WeightNames) -> bool:
    return path.endswith((".kernel", ".lora_a", ".lora_b")) or path in rules.matrices


def _in_out(path: str, shape: tuple[int, ...], rules: WeightNames) -> tuple[int, int]:
    n_inputs = 2 if path in rules.two_input_axes else 1
    if path.endswith(".lora_a"):  # [*inputs, r]; lora_b is [r, *outputs]
        n_inputs = len(shape) - 1
    return math.prod(shape[:n_inputs]), math.prod(shape[n_inputs:])


def _fits(path: str, shape: tuple[int, ...], found: tuple[int, ...], rules: WeightNames) -> bool:
    """Whether a published tensor of shape ``found`` is a parameter of ``shape``."""
    if path.endswith(".bias"):
        return found == (math.prod(shape),)
    if not _is_kernel(path, rules):
        return found == shape
    if path in rules.convolutions and len(found) > 1:  # [out, channels, frames, row, column] for example
        found = (found[0], math.prod(found[1:]))
    return found == _in_out(path, shape, rules)[::-1]


def as_published(path: str, value: np.ndarray, rules: WeightNames) -> np.ndarray:
    """A contiguous parameter, or one layer of it, seen as its published tensor: [*inputs, *outputs] -> [out, in].

    A view, so it serves both ways: what is read is written into it, what is exported is read from it.
    """
    if path.endswith(".bias"):
        return value.reshape(-1)
    if _is_kernel(path, rules):
        return value.reshape(_in_out(path, value.shape, rules)).T
    return value


def published_shape(path: str, shape: tuple[int, ...], sizes: Sizes) -> tuple[int, ...]:
    """Shape in the file: that of :func:`as_published`, but a convolution's kernel keeps all its axes."""
    rules = sizes.family.weights
    blank = np.broadcast_to(np.int8(0), (math.prod(shape),)).reshape(shape)
    found = as_published(path, blank, rules).shape
    return (found[0], *rules.convolutions[path](sizes)) if path in rules.convolutions else found


def sources(params: nnx.State, rules: WeightNames) -> tuple[list[Assignment], list[str]]:
    """Each parameter with the normalised names that fill it, and the parameters that no name is known for."""
    found, problems, known = [], [], rules.names
    for keys, variable in nnx.to_flat_state(params):
        path = ".".join(str(key) for key in keys)
        if path not in known:
            problems.append(f"no rule for parameter {path}")
            continue
        stacked = "{}" in known[path]
        n_names = variable.shape[0] if stacked else 1
        names = tuple(known[path].format(layer) for layer in range(n_names))
        found.append(Assignment(keys, path, variable, names, stacked))
    return found, problems


def assign(
    params: nnx.State, headers: Mapping[str, Header], is_same: Callable[[str, str], bool], rules: WeightNames
) -> list[Assignment]:
    """Accounts for every tensor and every parameter, before any value is placed.

    Args:
      params: ``nnx.state(model, nnx.Param)``, abstract or not.
      headers: of every tensor, by its name in the file.
      is_same: whether two tensors have the same values; asked only of a tied model's repeated unembedding.
      rules: the family's names.

    Returns:
      One assignment for each parameter, its names as they are in the file.

    Raises:
      ValueError: unmapped names, unassigned parameters, shape clashes and types that are no float, all in one message.
    """
    kept = [name for name in headers if not name.endswith(rules.ignored)]
    available = {normalise(name, rules): name for name in kept}
    assignments, problems = sources(params, rules)
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
            if not _fits(wanted.path, wanted.piece_shape, shape, rules):
                problems.append(f"shape clash: {original} is {shape}, {wanted.path} is {tuple(wanted.variable.shape)}")
            if dtype not in DTYPES:
                problems.append(f"type: {original} is {dtype}, must be among {DTYPES}")
        done.append(wanted._replace(names=tuple(names)))
    problems += _check_tied(unused, available, headers, is_same, rules)
    problems += [f"unmapped: {original}" for original in unused.values()]
    if problems:
        raise ValueError(f"{len(problems)} problems in the state dict: " + "; ".join(problems))
    return done


def _check_tied(
    unused: dict[str, str],
    available: Mapping[str, str],
    headers: Mapping[str, Header],
    is_same: Callable,
    rules: WeightNames,
) -> list[str]:
    """A tied model's file may repeat the embedding as unembedding; it must then be the same."""
    embedding, head_name = available.get(rules.names[rules.tied[0]]), rules.names[rules.tied[1]]
    head = unused.get(head_name)
    if head is None or embedding is None:
        return []
    del unused[head_name]
    if headers[head].shape == headers[embedding].shape and is_same(head, embedding):
        return []
    return [f"{head} differs from {embedding}, but the configuration ties them (tie_word_embeddings)"]
