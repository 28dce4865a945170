"""Adapters in the layout of PEFT, read and written: ``adapter_config.json`` beside ``adapter_model.safetensors``.

A tensor has the name of the module that it adapts in transformers' model, with ``base_model.model.`` before it and
``.lora_A.weight`` or ``.lora_B.weight`` behind; A is [r, in] and B is [out, r]. Which modules are adapted is read from
the tensors, since ``target_modules`` may be a pattern. What this package does not compute (DoRA, trained biases, whole
modules beside the adapters, ranks that differ from module to module) is refused, as is any setting of later versions
of PEFT that is not known to change nothing.
"""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from flax import nnx

from arft_jax.io.export import DTYPES, appearing, check_new, make_get
from arft_jax.io.finite import check_finite
from arft_jax.io.safetensors_dir import TensorFiles, open_file, write_tensors
from arft_jax.io.weight_rules import Header, assign, normalise, published_name, published_shape, sources
from arft_jax.io.weights import abstract_params, fill
from arft_jax.models.family import Sizes, WeightNames
from arft_jax.models.lora import TARGETS, VISION_TARGETS, Lora, LoraParam

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PICKLE = "adapter_model.bin"
KEY = "config.model.lora.adapter"
_MAX_CONFIG_BYTES = 2**24
_PREFIX = "base_model.model."
_ENDS = {".lora_a": ".lora_A.weight", ".lora_b": ".lora_B.weight"}
_LAYER = re.compile(r"(?<=\.)\d+(?=\.)")
# Settings of PEFT that say how an adapter was made or trained, or that are read by name here; all others must be empty.
_KNOWN = frozenset((
    "peft_type", "r", "lora_alpha", "use_rslora", "bias", "init_lora_weights", "auto_mapping",
    "base_model_name_or_path", "revision", "task_type", "peft_version", "inference_mode", "target_modules",
    "exclude_modules", "lora_dropout", "fan_in_fan_out", "layers_pattern", "layers_to_transform", "loftq_config",
    "eva_config", "corda_config", "lora_ga_config", "velora_config", "runtime_config", "megatron_config",
    "megatron_core", "qalora_group_size", "ensure_weight_tying",
))  # fmt: skip
_BASE_KEPT = (True, False, None, "gaussian", "eva", "orthogonal", "mica")  # ways to begin that leave the base alone


def adapter_names(params: nnx.State, rules: WeightNames) -> WeightNames:
    """The family's names with those of adapters: the same rules then read and write them.

    Args:
      params: of a model with adapters, abstract or not.
      rules: the family's.
    """
    names = {}
    for keys, _ in nnx.to_flat_state(params):
        path = ".".join(str(key) for key in keys)
        kernel = rules.names.get(re.sub(r"\.lora_[ab]$", ".kernel", path))
        if kernel is not None and path.endswith(tuple(_ENDS)):
            names[path] = kernel.removesuffix(".weight") + _ENDS[path[-len(".lora_a") :]]
    read = [(_PREFIX + there, here) for there, here in rules.prefixes]
    written = [(here, _PREFIX + there) for here, there in rules.modules or rules.written]
    return dataclasses.replace(
        rules,
        names={**rules.names, **names},
        prefixes=(*read, (_PREFIX, "")),
        written=(*written, ("", _PREFIX)),
    )


def _adapters(sizes: Sizes, lora: Lora) -> nnx.State:
    """The adapters of a model: shapes and types."""
    return nnx.split_state(abstract_params(sizes, lora=lora), LoraParam, ...)[0]


# --------------------------------------------------------------------- reading


def check_adapter(directory: str | os.PathLike, sizes: Sizes) -> Lora:
    """What a directory's adapters are, every tensor and value of theirs checked; nothing is placed.

    Args:
      directory: in the layout of PEFT.
      sizes: of the base.

    Raises:
      ValueError: files that are missing or corrupt; settings that are not supported; tensors that are missing, unknown,
        of another shape or type, or no numbers: all in one message.
    """
    folder = pathlib.Path(directory)
    settings, problems = _read_config(folder)
    problems += _check_settings(settings)
    lora = None
    try:
        with _open(folder) as files:
            lora, found = _check_tensors(files, settings, sizes)
            problems += found
    except ValueError as error:
        problems.append(str(error))
    if problems or lora is None:
        raise ValueError(f"{len(problems)} problems in the adapter {folder}: {'; '.join(problems)} ({KEY})")
    return lora


def _read_config(folder: pathlib.Path) -> tuple[dict[str, Any], list[str]]:
    path = folder / CONFIG
    if not path.is_file():
        return {}, [f"an adapter must be a directory with {CONFIG} and {TENSORS}: {folder} holds no {CONFIG}"]
    if path.stat().st_size > _MAX_CONFIG_BYTES:
        return {}, [f"{CONFIG} must hold at most {_MAX_CONFIG_BYTES} bytes: got {path.stat().st_size}"]
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        return {}, [f"{CONFIG} must be JSON: {error}"]
    return (settings, []) if isinstance(settings, dict) else ({}, [f"{CONFIG} must be a JSON object"])


def _open(folder: pathlib.Path) -> contextlib.AbstractContextManager[TensorFiles]:
    if not (folder / TENSORS).is_file():
        reason = f"an adapter must have its tensors in {TENSORS}: {folder} holds none"
        if (folder / PICKLE).exists():
            reason += (
                f", but {PICKLE}, a pickle, which is never read because it can run code; write it again as safetensors "
                "(peft: save_pretrained)"
            )
        raise ValueError(reason)
    return open_file(folder / TENSORS)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_rank(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _check_settings(settings: Mapping[str, Any]) -> list[str]:
    """What ``adapter_config.json`` says that is not supported; nothing where it could not be read."""
    if not settings:
        return []
    get, problems = settings.get, []
    if get("peft_type") != "LORA":
        problems.append(f"peft_type must be 'LORA': got {get('peft_type')!r}")
    if not _is_rank(get("r")):
        problems.append(f"r must be a whole number above 0: got {get('r')!r}")
    if not (_is_number(get("lora_alpha")) and get("lora_alpha") > 0):
        problems.append(f"lora_alpha must be a number above 0: got {get('lora_alpha')!r}")
    if not isinstance(get("use_rslora", False), bool):
        problems.append(f"use_rslora must be true or false: got {get('use_rslora')!r}")
    if get("bias", "none") != "none":
        problems.append(f"bias must be 'none', trained biases are not supported: got {get('bias')!r}")
    begin = get("init_lora_weights", True)
    if not any(begin is known or (isinstance(begin, str) and begin == known) for known in _BASE_KEPT):
        problems.append(f"init_lora_weights must be a way to begin that leaves the base as it is: got {begin!r}")
    problems += [
        f"{name} must be empty, it is not supported: got {json.dumps(value)[:80]}"
        for name, value in settings.items()
        if name not in _KNOWN and value not in (None, False, "", 0) and value != [] and value != {}
    ]
    return [f"{CONFIG}: {problem}" for problem in problems]


def _check_tensors(files: TensorFiles, settings: Mapping[str, Any], sizes: Sizes) -> tuple[Lora | None, list[str]]:
    """What the tensors adapt, and what is wrong with them."""
    every = _adapters(sizes, Lora(rank=1, vision=True))
    rules = adapter_names(every, sizes.family.weights)
    path_of = {name: path for path, name in rules.names.items() if path.endswith(tuple(_ENDS))}
    templates = {_LAYER.sub("{}", normalise(name, rules), count=1) for name in files.headers}
    adapted = [path_of[name].split(".") for name in templates if name in path_of]
    problems = []
    for name in files.headers:
        try:
            check_finite(files.read(name), name, files.path_of(name), KEY)
        except ValueError as error:
            problems.append(str(error))
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    if not adapted:
        names = ", ".join(sorted(files.headers)[:3]) or "no tensor"
        return None, [*problems, f"{TENSORS} must hold adapters of {sizes.family.title}: got {names}"]
    if not (_is_rank(rank) and _is_number(alpha) and alpha > 0):
        return None, problems
    seen = {(parts[0] == sizes.family.tower, parts[-2]) for parts in adapted}
    in_vision = tuple(name for name in VISION_TARGETS if (True, name) in seen)
    lora = Lora(
        rank=rank,
        alpha=float(alpha),
        targets=tuple(name for name in TARGETS if (False, name) in seen),
        vision=bool(in_vision),
        vision_targets=in_vision or VISION_TARGETS,
        rslora=settings.get("use_rslora") is True,
    )
    try:
        assign(_adapters(sizes, lora), files.headers, _never_same, rules)
    except ValueError as error:
        problems.append(f"{TENSORS}: {error}")
    return lora, problems


def _never_same(one: str, other: str) -> bool:
    return False  # an adapter repeats no tensor of the base


def load_adapter(directory: str | os.PathLike, params: nnx.State, shardings: Any, rules: WeightNames) -> nnx.State:
    """The adapters with the values of a directory that :func:`check_adapter` has let through.

    Args:
      directory: in the layout of PEFT.
      params: the adapters alone, abstract or not: paths, shapes and types are read.
      shardings: a sharding for each; None: the default device.
      rules: the family's names of tensors.

    Raises:
      ValueError: tensors that do not fit, or that are no numbers.
    """
    rules = adapter_names(params, rules)
    with _open(pathlib.Path(directory)) as files:
        assignments = assign(params, files.headers, _never_same, rules)

        def read(name: str, start: int, stop: int) -> np.ndarray:
            values = files.read(name, start, stop)
            check_finite(values, name, files.path_of(name), KEY)
            return values

        return fill(assignments, files.headers, read, shardings, rules)


# --------------------------------------------------------------------- writing


def save_adapter(
    directory: str | os.PathLike,
    params: nnx.State,
    sizes: Sizes,
    lora: Lora,
    *,
    base: str = "",
    dtype: str = "float32",
) -> None:
    """Writes adapters as ``peft`` reads them; whole or not at all.

    On several hosts every process calls it; the first one writes.

    Args:
      directory: new or empty.
      params: of the model, or its adapters alone.
      sizes: of the model.
      lora: what the adapters are.
      base: where the base comes from, a directory or a name on the Hugging Face hub; empty: not said.
      dtype: type on disk, float32 or bfloat16.

    Raises:
      ValueError: a directory that is not empty, another type, no adapters.
    """
    directory = pathlib.Path(directory).absolute()
    check_new(directory)
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be among {DTYPES}: got {dtype!r} (--dtype)")
    adapters = nnx.split_state(params, LoraParam, ...)[0]
    rules = adapter_names(adapters, sizes.family.weights)
    assignments, problems = sources(adapters, rules)
    if problems or not assignments:
        told = "; ".join(problems) or "a policy without adapters"
        raise ValueError(f"adapters must be of {sizes.family.title}: got {told} (config.model.lora.rank)")
    tensors = {published_name(name, rules): (item, at) for item in assignments for at, name in enumerate(item.names)}
    shapes = {name: published_shape(item.path, item.piece_shape, sizes) for name, (item, _) in tensors.items()}
    headers = {name: Header(shape, dtype) for name, shape in shapes.items()}
    modules = {published_name(rules.names[item.path], rules).rsplit(".", 2)[0] for item in assignments}
    settings = _settings(lora, [name.removeprefix(_PREFIX) for name in modules], base)
    with appearing(directory) as folder:
        write_tensors(folder, headers, make_get(tensors, shapes, rules), sys.maxsize, TENSORS)
        if folder is not None:
            (folder / CONFIG).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _settings(lora: Lora, modules: Iterable[str], base: str) -> dict[str, Any]:
    """The contents of ``adapter_config.json``."""
    alpha = int(lora.alpha) if float(lora.alpha).is_integer() else lora.alpha
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base or None,
        "revision": None,
        "inference_mode": True,
        "r": lora.rank,
        "lora_alpha": alpha,
        "use_rslora": lora.rslora,
        "use_dora": False,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "modules_to_save": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        "target_modules": target_pattern(modules),
    }


def target_pattern(modules: Iterable[str]) -> str:
    r"""A pattern that matches whole names of these modules and no others.

    Args:
      modules: names, with ``{}`` where the number of the layer is.

    >>> print(target_pattern(["model.layers.{}.mlp.up_proj", "model.layers.{}.mlp.down_proj"]))
    model\.layers\.\d+(\.mlp\.down_proj|\.mlp\.up_proj)
    """
    tails: dict[str, list[str]] = {}
    for name in sorted(modules):
        head, _, tail = name.partition("{}")
        tails.setdefault(re.escape(head), []).append(re.escape(tail))
    return "|".join(rf"{head}\d+({'|'.join(ends)})" if any(ends) else head for head, ends in tails.items())
