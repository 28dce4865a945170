"""A directory of safetensors files in the Hugging Face layout: read and written one tensor at a time.

Format: https://github.com/huggingface/safetensors (8 bytes of header length, JSON header, data). Values are read with
plain reads at the header's offsets, not through a memory map, so that nothing but the tensor in hand is resident.
"""

import contextlib
import json
import math
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import ml_dtypes
import numpy as np
import safetensors

from arft_jax.io.weight_rules import Header

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
CHUNK_BYTES = 64 * 2**20  # what is converted or compared at once
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_TYPES = {
    "F64": np.dtype(np.float64), "F32": np.dtype(np.float32), "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16), "I64": np.dtype(np.int64), "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16), "I8": np.dtype(np.int8), "U8": np.dtype(np.uint8), "BOOL": np.dtype(bool),
}  # fmt: skip
_CODES = {dtype.name: code for code, dtype in _TYPES.items()}


class _Place(NamedTuple):
    path: pathlib.Path
    header: Header
    offset: int


class TensorFiles:
    """The tensors of a directory; opened by :func:`open_tensors`.

    Args:
      places: where each tensor lies.
      stack: what the open files are closed with.
    """

    def __init__(self, places: Mapping[str, _Place], stack: contextlib.ExitStack):
        self._places, self._stack = places, stack
        self._files: dict[pathlib.Path, object] = {}
        self.headers = {name: place.header for name, place in places.items()}

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """A tensor, or rows ``start`` to ``stop`` of it, in the file's type.

        Raises:
          ValueError: the file has become shorter since it was opened.
        """
        path, (shape, dtype), offset = self._places[name]
        if path not in self._files:
            self._files[path] = self._stack.enter_context(open(path, "rb"))
        file, kind = self._files[path], np.dtype(dtype)
        row_bytes = math.prod(shape[1:]) * kind.itemsize
        if shape:
            start, stop, _ = slice(start, stop).indices(shape[0])
            shape = (stop - start, *shape[1:])
        values = np.empty(shape, kind)
        file.seek(offset + start * row_bytes)
        n_bytes = file.readinto(values.reshape(-1).view(np.uint8))
        if n_bytes != values.nbytes:
            raise ValueError(f"{path} must hold {values.nbytes} bytes of {name}: got {n_bytes}")
        return values

    def path_of(self, name: str) -> pathlib.Path:
        """The file that a tensor is in."""
        return self._places[name].path

    def is_same(self, one: str, other: str) -> bool:
        """Whether two tensors of one shape have the same values; a chunk of rows at a time."""
        shape = self.headers[one].shape
        rows = max(1, CHUNK_BYTES // max(1, 4 * math.prod(shape[1:])))
        return all(
            np.array_equal(self.read(one, at, at + rows), self.read(other, at, at + rows))
            for at in range(0, shape[0], rows)
        )


@contextlib.contextmanager
def open_tensors(directory: str | os.PathLike) -> Iterator[TensorFiles]:
    """Opens ``model.safetensors`` or the shards of ``model.safetensors.index.json``; reads headers, no values.

    Raises:
      ValueError: no such directory, no safetensors files (pickle files are never read), an index that does not fit its
        shards, truncated or corrupt files; every one of them named.
    """
    folder = pathlib.Path(directory)
    if not folder.is_dir():
        raise ValueError(f"weights must be a directory with safetensors files: got {folder}, which is none")
    single, index = (folder / SINGLE).exists(), (folder / INDEX).exists()
    if single and index:
        raise ValueError(f"weights must be one {SINGLE} or an index with shards: got both in {folder}")
    if not single and not index:
        raise ValueError(_why_none(folder))
    weight_map = _read_index(folder / INDEX) if index else None
    names = sorted(set(weight_map.values())) if index else [SINGLE]
    absent = [name for name in names if not (folder / name).is_file()]
    problems = [f"{INDEX} names {name}, which is not there" for name in absent]
    places: dict[str, _Place] = {}
    for name in names:
        if name in absent:
            continue
        try:
            found = _read_header(folder / name)
        except ValueError as error:
            problems.append(str(error))
            absent.append(name)
            continue
        if index:
            problems += [f"{name} holds {key}, which {INDEX} does not place there"
                         for key in found if weight_map.get(key) != name]  # fmt: skip
        places |= found
    if index:
        problems += [
            f"{INDEX} places {key} in {name}, which does not hold it"
            for key, name in weight_map.items()
            if name not in absent and key not in places
        ]
    if problems:
        raise ValueError(f"{len(problems)} problems in the files of {folder}: " + "; ".join(problems))
    with contextlib.ExitStack() as stack:
        yield TensorFiles(places, stack)


@contextlib.contextmanager
def open_file(path: pathlib.Path) -> Iterator[TensorFiles]:
    """Opens one safetensors file; reads its header, no values.

    Raises:
      ValueError: it is not there, truncated or corrupt.
    """
    with contextlib.ExitStack() as stack:
        yield TensorFiles(_read_header(path), stack)


def _why_none(folder: pathlib.Path) -> str:
    files = sorted(path.name for path in folder.iterdir() if path.is_file())
    pickles = [name for name in files if name.endswith(_PICKLES)]
    if pickles:
        return (
            f"weights must be safetensors files: {folder} holds {pickles[0]}, a pickle, which is never read because it "
            f"can run code; write it again as safetensors (transformers: save_pretrained)"
        )
    others = [name for name in files if name.endswith(".safetensors")]
    found = f"only {', '.join(others[:3])}" if others else "no safetensors file"
    return f"weights must be {SINGLE} or {INDEX} with its shards: {folder} holds {found}"


def _read_index(path: pathlib.Path) -> dict[str, str]:
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        good = isinstance(weight_map, dict) and all(isinstance(name, str) for name in weight_map.values())
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} must be a JSON index with a weight_map ({type(error).__name__}: {error})") from error
    if not good or not weight_map:
        raise ValueError(f"{path} must be a JSON index whose weight_map gives each tensor its file")
    outside = sorted(name for name in weight_map.values() if pathlib.PurePath(name).name != name)
    if outside:
        raise ValueError(f"{path} must name files of its own directory: got {outside[0]!r}")
    return weight_map


def _read_header(path: pathlib.Path) -> dict[str, _Place]:
    try:
        with safetensors.safe_open(path, framework="np"):  # checks that header and length fit
            pass
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            entries = json.loads(file.read(length))
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} must be a whole safetensors file: it is truncated or corrupt ({error})") from error
    entries.pop("__metadata__", None)
    return {
        name: _Place(
            path,
            Header(tuple(entry["shape"]), _TYPES[entry["dtype"]].name if entry["dtype"] in _TYPES else entry["dtype"]),
            8 + length + entry["data_offsets"][0],
        )
        for name, entry in entries.items()
    }


# -------------------------------------------------------------------- writing


def _natural(name: str) -> list:
    """Sorts layer 2 before layer 10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _n_bytes(header: Header) -> int:
    return math.prod(header.shape) * np.dtype(header.dtype).itemsize


def plan_shards(headers: Mapping[str, Header], max_shard_bytes: int) -> list[list[str]]:
    """Names of each shard, layer by layer; a shard is over the limit only where one tensor is.

    >>> plan_shards({"a": Header((2,), "float32"), "b": Header((2,), "float32")}, 12)
    [['a'], ['b']]
    """
    shards, size = [[]], 0
    for name in sorted(headers, key=_natural):
        n_bytes = _n_bytes(headers[name])
        if shards[-1] and size + n_bytes > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += n_bytes
    return shards


def write_tensors(
    folder: pathlib.Path | None,
    headers: Mapping[str, Header],
    get: Callable[[str], np.ndarray],
    max_shard_bytes: int,
    single: str = SINGLE,
) -> None:
    """Writes ``model.safetensors``, or shards and their index where one file would be over the limit.

    Args:
      folder: where; None: ``get`` is called all the same, nothing is written (the other processes of a pod).
      headers: shape and type of each tensor as it shall be on disk.
      get: the values, asked for once, in any type and stride; no two are held at once.
      max_shard_bytes: limit of a file's data.
      single: name of the file where one is enough.
    """
    shards = plan_shards(headers, max_shard_bytes)
    weight_map = {}
    for number, names in enumerate(shards, start=1):
        file_name = single if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        weight_map |= dict.fromkeys(names, file_name)
        with open(os.devnull if folder is None else folder / file_name, "wb") as file:
            file.write(_encode_header(names, headers))
            for name in names:
                _write_values(file, name, headers[name], get(name))
            file.flush()
            if folder is not None:
                os.fsync(file.fileno())
    if folder is not None and len(shards) > 1:
        sizes = {
            "total_parameters": sum(math.prod(header.shape) for header in headers.values()),
            "total_size": sum(_n_bytes(header) for header in headers.values()),
        }
        text = json.dumps({"metadata": sizes, "weight_map": weight_map}, indent=2)
        (folder / INDEX).write_text(text + "\n", encoding="utf-8")


def _encode_header(names: list[str], headers: Mapping[str, Header]) -> bytes:
    entries: dict[str, dict] = {"__metadata__": {"format": "pt"}}  # transformers asks for it
    end = 0
    for name in names:
        begin, end = end, end + _n_bytes(headers[name])
        shape, dtype = headers[name]
        entries[name] = {"dtype": _CODES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text


def _write_values(file, name: str, header: Header, values: np.ndarray) -> None:
    """Converts and writes a chunk of rows at a time, so that no second copy of the tensor is made."""
    if values.shape != header.shape:
        raise ValueError(f"{name} must have the shape {header.shape}: got {values.shape}")
    rows = max(1, CHUNK_BYTES // max(1, math.prod(header.shape[1:]) * np.dtype(header.dtype).itemsize))
    for at in range(0, header.shape[0], rows):
        chunk = np.ascontiguousarray(values[at : at + rows], np.dtype(header.dtype))
        file.write(chunk.reshape(-1).view(np.uint8))
