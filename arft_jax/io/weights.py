"""Published weights -> parameters of the model, tensor by tensor into their places.

The rules are in ``weight_rules.py``, the names of the tensors in the record of the model's family. Everything is
checked on names, shapes and types alone; only then is the first parameter made. A tensor is read a few rows at a time
into its place in our layout, cut into the shards of this process and copied to their devices; one layer of a stacked
parameter is then put in by a donated update. The host holds one tensor at a time, once: as large as in the file, or in
the parameter's type where that is smaller.
"""

import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from arft_jax.io import gguf_file, safetensors_dir
from arft_jax.io.finite import check_finite
from arft_jax.io.weight_rules import Assignment, Header, as_published, assign
from arft_jax.models.families import DEFAULT, family_of
from arft_jax.models.family import Family, Sizes, WeightNames
from arft_jax.models.lora import NO_LORA, Lora
from arft_jax.steps import init, param_edits

CONFIG = "config.json"
_MAX_CONFIG_BYTES = 2**24
_CHUNK_BYTES = 4 * 2**20  # read and turned at once: a few rows stay in the processor's cache
_ALIGNMENT = 64


def load_model_config(directory: str | os.PathLike, family: Family | None = None) -> Sizes:
    """Reads ``config.json``, or what a GGUF file says in its place.

    Args:
      directory: holds it; or the file.
      family: that reads it; None: the one of its ``model_type``.

    Raises:
      ValueError: no such file, no JSON, or a model that the family, or no family, reads.
    """
    path = pathlib.Path(directory) / CONFIG
    if gguf_file.is_gguf(directory):
        return _config_by(gguf_file.hf_config(directory), directory, family)
    if not path.is_file():
        raise ValueError(f"weights must be a directory with {CONFIG}: {directory} holds none")
    n_bytes = path.stat().st_size
    if n_bytes > _MAX_CONFIG_BYTES:
        raise ValueError(f"{path} must hold at most {_MAX_CONFIG_BYTES} bytes: got {n_bytes}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} must be JSON: {error}") from error
    return _config_by(config, path, family)


def _config_by(config: Any, path: str | os.PathLike, family: Family | None) -> Sizes:
    kind = config.get("model_type") if isinstance(config, dict) else None
    try:
        if family is None:
            family = family_of(kind)
        if kind not in family.reads:
            raise ValueError(f"model_type must be {' or '.join(family.reads)}: got {kind!r}")
        return family.config_from_hf(config)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error} (config.weights, config.model.family)") from error


def abstract_params(config: Sizes, dtype: Any = np.float32, lora: Lora = NO_LORA) -> nnx.State:
    """The parameters of a model of these sizes: shapes, types and axes, no values."""
    make = config.family.make
    return init.abstract_params(lambda rngs: make(config, rngs=rngs, param_dtype=dtype, lora=lora))[1]


def _open(directory: str | os.PathLike) -> AbstractContextManager:
    """The tensors of a directory or of a GGUF file."""
    reader = gguf_file if gguf_file.is_gguf(directory) else safetensors_dir
    return reader.open_tensors(directory)


def check_weights(directory: str | os.PathLike, params: nnx.State, rules: WeightNames = DEFAULT.weights) -> int:
    """Number of tensors of a directory that fills ``params`` exactly; no value is placed.

    Raises:
      ValueError: as :func:`load_params`.
    """
    with _open(directory) as files:
        assign(params, files.headers, files.is_same, rules)
        return len(files.headers)


def load_params(
    directory: str | os.PathLike,
    params: nnx.State,
    shardings: Any = None,
    part: str = "",
    rules: WeightNames = DEFAULT.weights,
) -> nnx.State:
    """The parameters with the values of a directory or a GGUF file; ``nnx.update(model, result)`` sets them.

    Args:
      directory: holds ``model.safetensors``, or shards and their index; or a GGUF file.
      params: ``nnx.state(model, nnx.Param)``, abstract or not: paths, shapes and types are read.
      shardings: a sharding for each parameter (``sharding.param_shardings(params, mesh)``); None: the default device.
      part: of the model, ``vision`` for example: all is checked, but only its parameters are made; empty: all.
      rules: the family's names of tensors.

    Returns:
      A state of the same structure (of the part: as far as it goes), in the types of ``params``, placed as
      ``shardings`` says.

    Raises:
      ValueError: files that are missing, truncated or corrupt; unmapped names, unassigned parameters, shape clashes,
        all in one message and before any parameter is made; a value that is NaN or infinite, as its tensor is read.
    """
    with _open(directory) as files:
        assignments = assign(params, files.headers, files.is_same, rules)
        chosen = [item for item in assignments if part in ("", item.keys[0])]

        def read(name: str, start: int, stop: int) -> np.ndarray:
            values = files.read(name, start, stop)
            check_finite(values, name, files.path_of(name))
            return values

        return fill(chosen, files.headers, read, shardings, rules)


def params_from_hf(
    params: nnx.State,
    tensors: Mapping[str, np.ndarray],
    shardings: Any = None,
    rules: WeightNames = DEFAULT.weights,
) -> nnx.State:
    """As :func:`load_params`, from a published state dict in memory.

    Args:
      params: ``nnx.state(model, nnx.Param)``, abstract or not.
      tensors: name -> array.
      shardings, rules: as there.

    Raises:
      ValueError: unmapped names, unassigned parameters and shape clashes, all in one message.
    """
    headers = {name: Header(tuple(np.shape(tensor)), np.dtype(tensor.dtype).name) for name, tensor in tensors.items()}
    assignments = assign(params, headers, lambda one, other: np.array_equal(tensors[one], tensors[other]), rules)
    return fill(assignments, headers, lambda name, start, stop: np.asarray(tensors[name])[start:stop], shardings, rules)


def fill(
    assignments: list[Assignment],
    headers: Mapping[str, Header],
    read: Callable[[str, int, int], np.ndarray],
    shardings: Any,
    rules: WeightNames,
) -> nnx.State:
    """The parameters of these assignments with the values of their tensors, in their places.

    Args:
      assignments: of :func:`weight_rules.assign`.
      headers: of the tensors.
      read: (name, first row, row behind the last) -> values.
      shardings, rules: as of :func:`load_params`.
    """

    def piece_of(item: Assignment, name: str, dtype: np.dtype) -> np.ndarray:
        return _read(item, name, dtype, read, rules)

    places = dict.fromkeys(item.keys for item in assignments)
    if shardings is not None:
        places = {keys: _sharding_of(leaf) for keys, leaf in nnx.to_flat_state(shardings)}
    absent = [item.path for item in assignments if item.keys not in places]
    if absent:
        raise ValueError(f"shardings must have the structure of the parameters: none for {absent[0]}")
    updates: dict[Any, Callable] = {}
    leaves = []
    for item in assignments:
        variable, sharding = item.variable, places[item.keys]
        dtypes = [_host_dtype(headers[name], variable) for name in item.names]
        if not item.stacked:
            value = param_edits.cast(_put(piece_of(item, item.names[0], dtypes[0]), sharding), variable.dtype)
        else:
            update = updates.setdefault(sharding, param_edits.make_put_layer(sharding))
            value = param_edits.zeros(variable.shape, variable.dtype, sharding)
            for layer, name in enumerate(item.names):
                piece = _put(piece_of(item, name, dtypes[layer]), _of_layer(sharding))
                # Waiting bounds what is in flight to one layer.
                value = jax.block_until_ready(update(value, piece, np.int32(layer)))
        leaves.append((item.keys, variable.replace(value)))
    return nnx.from_flat_state(leaves)


def _host_dtype(header: Header, variable: nnx.Variable) -> np.dtype:
    """In which type the host holds a tensor: bfloat16 becomes float32 on the device, other types here."""
    dtype = np.dtype(variable.dtype)
    return np.dtype(header.dtype) if (header.dtype, dtype.name) == ("bfloat16", "float32") else dtype


def _read(
    item: Assignment, name: str, dtype: np.dtype, read: Callable[[str, int, int], np.ndarray], rules: WeightNames
) -> np.ndarray:
    """A tensor in our layout and this type; a few rows of the file at a time, so that it is held once."""
    values = _empty(item.piece_shape, dtype)
    view = as_published(item.path, values, rules)
    rows = max(1, _CHUNK_BYTES // max(1, math.prod(view.shape[1:]) * values.itemsize))
    for start in range(0, len(view), rows):
        part = view[start : start + rows]
        part[...] = read(name, start, start + rows).reshape(part.shape)
    return values


def _empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """At an address that the CPU backend takes as its own memory, so that it makes no copy."""
    n_bytes = math.prod(shape) * dtype.itemsize
    memory = np.empty(n_bytes + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + n_bytes].view(dtype).reshape(shape)


def _sharding_of(leaf: Any) -> Sharding:
    return leaf.get_value() if isinstance(leaf, nnx.Variable) else leaf


def _of_layer(sharding: Sharding | None) -> Sharding | None:
    """The sharding of one layer of a stacked parameter: the leading axis is dropped."""
    if isinstance(sharding, NamedSharding):
        return NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))
    return sharding


def _put(values: np.ndarray, sharding: Sharding | None) -> jax.Array:
    """Copies the shards that are this process's own to their devices, one after another."""
    if sharding is None:
        return jax.block_until_ready(jax.device_put(values))
    shards = [
        jax.block_until_ready(jax.device_put(values[index], device))
        for device, index in sharding.addressable_devices_indices_map(values.shape).items()
    ]
    return jax.make_array_from_single_device_arrays(values.shape, sharding, shards)
