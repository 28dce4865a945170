"""Parameters of the model -> a Hugging Face directory that transformers and vLLM load.

Keys are the published ones of the model's family. One tensor at a time is cut out of its
stacked parameter on the device and written; the directory appears under its name when all of it is on disk.
"""

import contextlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from arft_jax.io.safetensors_dir import write_tensors
from arft_jax.io.weight_rules import Assignment, Header, as_published, published_name, published_shape, sources
from arft_jax.io.weights import CONFIG, abstract_params
from arft_jax.models.family import Sizes, WeightNames
from arft_jax.steps import param_edits

MAX_SHARD_BYTES = 5_000_000_000
DTYPES = ("float32", "bfloat16")


def save_params(
    directory: str | os.PathLike,
    params: nnx.State,
    config: Sizes,
    *,
    dtype: str = "float32",
    max_shard_bytes: int = MAX_SHARD_BYTES,
    files: Mapping[str, bytes] | None = None,
    config_extra: Mapping[str, Any] | None = None,
) -> None:
    """Writes safetensors, ``config.json`` and the files beside them; whole or not at all.

    On several hosts every process calls it; the first one writes.

    Args:
      directory: new or empty.
      params: ``nnx.state(model, nnx.Param)``, sharded or not.
      config: the model's sizes.
      dtype: type on disk, float32 or bfloat16.
      max_shard_bytes: limit of one file's data; beyond it there are shards and an index.
      files: further files by name, as of ``hf_files.tokenizer_files``; ``config.json`` among them takes the place of
        the one made here.
      config_extra: further keys of ``config.json``, put at the top and into its ``text_config`` where it has one.

    Raises:
      ValueError: a directory that is not empty, another type, parameters that are not those of ``config``.
    """
    directory = pathlib.Path(directory).absolute()
    check_new(directory)
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be among {DTYPES}: got {dtype!r} (--dtype)")
    if max_shard_bytes < 1:
        raise ValueError(f"max_shard_bytes must be positive: got {max_shard_bytes}")
    tensors = _tensors(params, config)
    shapes = {name: published_shape(item.path, item.piece_shape, config) for name, (item, _) in tensors.items()}
    headers = {name: Header(shape, dtype) for name, shape in shapes.items()}
    extra = dict(config_extra or {})
    layout = config.to_hf()
    layout = {**layout, **extra, "dtype": dtype, "torch_dtype": dtype}  # the later and the earlier word
    if "text_config" in layout:
        layout["text_config"] = {**layout["text_config"], **extra, "dtype": dtype}
    with appearing(directory) as folder:
        write_tensors(folder, headers, make_get(tensors, shapes, config.family.weights), max_shard_bytes)
        if folder is not None:
            text = json.dumps(layout, indent=2) + "\n"
            for name, contents in {CONFIG: text.encode(), **(files or {})}.items():
                (folder / name).write_bytes(contents)


def check_new(directory: str | os.PathLike) -> None:
    """Raises a ValueError where ``directory`` is neither absent nor an empty directory."""
    path = pathlib.Path(directory)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"the output directory must be new or empty: got {path}")


def _tensors(params: nnx.State, config: Sizes) -> dict[str, tuple[Assignment, int]]:
    """Published name -> the parameter that it comes from and its layer."""
    rules = config.family.weights
    wanted, _ = sources(abstract_params(config), rules)
    assignments, problems = sources(params, rules)
    want = {item.path: tuple(item.variable.shape) for item in wanted}
    have = {item.path: tuple(item.variable.shape) for item in assignments}
    for path in sorted(want.keys() | have.keys()):
        if want.get(path) != have.get(path):
            problems.append(f"{path} is {have.get(path, 'absent')}, the configuration has {want.get(path, 'none')}")
    if problems:
        raise ValueError(f"{len(problems)} problems in the parameters: " + "; ".join(problems))
    return {published_name(name, rules): (item, at) for item in assignments for at, name in enumerate(item.names)}


def make_get(
    tensors: Mapping[str, tuple[Assignment, int]], shapes: Mapping[str, tuple[int, ...]], rules: WeightNames
) -> Callable[[str], np.ndarray]:
    """get(name) -> values of a tensor as published, cut out of its parameter.

    Args:
      tensors: name -> the parameter that it comes from and its layer.
      shapes: as published.
      rules: the family's.
    """
    takes: dict[Any, Callable] = {}
    copies: dict[Any, Callable] = {}

    def get(name: str) -> np.ndarray:
        item, layer = tensors[name]
        value = item.variable.get_value()
        # What other hosts hold must come here first; what is all here is gathered by the host.
        whole = None if value.is_fully_addressable else NamedSharding(value.sharding.mesh, PartitionSpec())
        if item.stacked:
            piece = takes.setdefault(whole, param_edits.make_take_layer(whole))(value, np.int32(layer))
        else:
            piece = copies.setdefault(whole, param_edits.make_copy(whole))(value)
        return as_published(item.path, np.asarray(piece), rules).reshape(shapes[name])

    return get


@contextlib.contextmanager
def appearing(directory: pathlib.Path) -> Iterator[pathlib.Path | None]:
    """A temporary sibling that becomes ``directory`` on success and vanishes on failure; None where not the writer."""
    if jax.process_index() == 0:
        directory.parent.mkdir(parents=True, exist_ok=True)
        folder = pathlib.Path(tempfile.mkdtemp(prefix=f".{directory.name}.", suffix=".partial", dir=directory.parent))
        try:
            yield folder
            folder.chmod(0o755)  # mkdtemp's is for its owner alone
            os.rename(folder, directory)  # takes the place of an empty directory
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    else:
        yield None
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("weights are written")
