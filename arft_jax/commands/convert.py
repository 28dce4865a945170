"""Hugging Face directories in and out: the two halves of ``launch/convert.py``."""

import dataclasses
import math
import os
import pathlib
from typing import Any

import jax
from flax import nnx

from arft_jax.build import model as build
from arft_jax.build.parts import check_trained_with
from arft_jax.data import sentencepiece_model
from arft_jax.data.tokenizer import FILE_NAME, Tokenizer
from arft_jax.io import hf_files, params_checkpoint
from arft_jax.io.checkpoints import Checkpoints
from arft_jax.io.disk import naming_write_faults
from arft_jax.io.export import DTYPES, MAX_SHARD_BYTES, appearing, check_new, save_params
from arft_jax.io.peft_adapters import save_adapter
from arft_jax.io.weights import CONFIG, abstract_params, check_weights, load_model_config, load_params
from arft_jax.models.family import Sizes
from arft_jax.models.lora import NO_LORA, Lora, LoraParam
from arft_jax.steps import param_edits
from arft_jax.train.run_config import load_run_config, written_keys
from arft_jax.train.run_dir import HF_FILES

BESIDE = HF_FILES  # an imported checkpoint has the same folder


@dataclasses.dataclass(frozen=True)
class _Source:
    """What a checkpoint directory is: where its steps are, what model they are of, which files belong to it; and of a
    run with adapters, what they are and which weights their base has."""

    checkpoints: pathlib.Path
    step: int
    model: Sizes
    files: dict[str, bytes]
    config_extra: dict[str, Any]
    lora: Lora = NO_LORA
    weights: str = ""


def _check_dtype(dtype: str) -> None:
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be among {DTYPES}: got {dtype!r} (--dtype)")


def _describe(params: nnx.State, dtype: str) -> str:
    n = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    return f"{n / 1e6:.2f}M parameters in {dtype}"


def import_weights(weights: str, checkpoint: str = "", dtype: str = "float32") -> str:
    """Checks a Hugging Face directory and writes its parameters as a checkpoint, whole or not at all.

    Args:
      weights: the directory; safetensors only.
      checkpoint: new or empty directory to write; empty: check names, shapes and files, write nothing.
      dtype: type of the parameters in the checkpoint.

    Returns:
      One line for people.

    Raises:
      ValueError: what does not fit, all in one message; nothing is written then.
    """
    _check_dtype(dtype)
    if checkpoint:
        check_new(checkpoint)
    if not pathlib.Path(weights).is_dir():
        raise ValueError(f"weights must be a directory: got {weights} (--weights)")
    config = load_model_config(weights)
    abstract = abstract_params(config, jax.numpy.dtype(dtype))
    _check_vocabulary(weights, config)
    if not checkpoint:
        n_tensors = check_weights(weights, abstract)
        return f"{weights}: {n_tensors} tensors, {_describe(abstract, dtype)}; every name and shape fits"
    params = load_params(weights, abstract)
    with (
        naming_write_faults("the checkpoint", checkpoint, "--checkpoint"),
        appearing(pathlib.Path(checkpoint).absolute()) as folder,
    ):
        (folder / BESIDE).mkdir()
        files = {**hf_files.side_files(weights), CONFIG: (pathlib.Path(weights) / CONFIG).read_bytes()}
        for name, contents in files.items():
            (folder / BESIDE / name).write_bytes(contents)
        with Checkpoints(folder, keep=1) as store:
            store.save(0, {"params": params}, {"weights": os.path.abspath(weights)})
    return f"{weights}: {_describe(params, dtype)}; wrote the checkpoint {checkpoint}"


def _check_vocabulary(tokenizer: str, config: Sizes) -> None:
    folder = pathlib.Path(tokenizer)
    if not any((folder / name).is_file() for name in (FILE_NAME, sentencepiece_model.FILE_NAME)):
        return
    n_ids = Tokenizer.load(tokenizer).vocab_size
    if n_ids > config.text.vocab_size:
        raise ValueError(
            f"the model's vocabulary must hold the tokenizer's: got {config.text.vocab_size} < {n_ids} in {tokenizer}"
        )


def export_weights(
    checkpoint: str,
    out: str,
    dtype: str = "float32",
    tokenizer: str = "",
    max_shard_bytes: int = MAX_SHARD_BYTES,
    *,
    adapter: str = "",
    base_model: str = "",
) -> str:
    """Writes the newest good checkpoint as a directory that transformers and vLLM load, its adapters as one of PEFT.

    Args:
      checkpoint: work directory of a run, or what :func:`import_weights` wrote.
      out: new or empty directory for all parameters, adapters merged; empty: they are not written.
      dtype: type on disk.
      tokenizer: directory of tokenizer and processor files to copy; empty: those of the checkpoint.
      max_shard_bytes: limit of one file.
      adapter: new or empty directory for the adapters alone; empty: they are not written.
      base_model: what the adapters' directory names as their base; empty: the weights that the run was started from.

    Returns:
      One line for people.

    Raises:
      ValueError: no good checkpoint, one of another model, another tokenizer than it was trained with, an output
        directory that is not empty, no adapters where they are asked for; nothing is written then.
    """
    _check_dtype(dtype)
    for directory in filter(None, (out, adapter)):
        check_new(directory)
    if out and adapter and os.path.abspath(out) == os.path.abspath(adapter):
        raise ValueError(f"the adapters must have a directory of their own: got {adapter} for both (--adapter, --out)")
    source = _source(pathlib.Path(checkpoint), tokenizer)
    if adapter and not source.lora.rank:
        raise ValueError(f"a checkpoint must have adapters to write them: got {checkpoint}, without any (--adapter)")
    params = abstract_params(source.model, lora=source.lora)
    if not out:
        params = nnx.split_state(params, LoraParam, ...)[0]
    params = params_checkpoint.read_params(source.checkpoints, source.step, params, part=not out)
    told = []
    if adapter:
        with naming_write_faults("the adapters' directory", adapter, "--adapter"):
            base = base_model or source.weights
            save_adapter(adapter, params, source.model, source.lora, base=base, dtype=dtype)
        told.append(f"{_describe(nnx.split_state(params, LoraParam, ...)[0], dtype)} of adapters; wrote {adapter}")
    if out:
        told.append(_write_merged(out, params, source, dtype, max_shard_bytes))
    return f"{checkpoint}, step {source.step}: " + "; ".join(told)


def _write_merged(out: str, params: nnx.State, source: _Source, dtype: str, max_shard_bytes: int) -> str:
    if source.lora.rank:
        params = param_edits.make_merge(source.lora.scale)(params)
    with naming_write_faults("the output directory", out, "--out"):
        save_params(
            out, params, source.model, dtype=dtype, max_shard_bytes=max_shard_bytes,
            files=source.files, config_extra=source.config_extra,
        )  # fmt: skip
    return f"{_describe(params, dtype)}; wrote {out}"


def _source(folder: pathlib.Path, tokenizer: str) -> _Source:
    if (folder / CONFIG).is_file() and (folder / "checkpoints").is_dir():
        return _run_source(folder, tokenizer)
    if (folder / BESIDE / CONFIG).is_file():
        model = load_model_config(folder / BESIDE)
        if tokenizer:
            _check_vocabulary(tokenizer, model)
        files = hf_files.tokenizer_files(tokenizer) if tokenizer else hf_files.side_files(folder / BESIDE)
        known = _tokenizer_in(files)
        extra = hf_files.token_ids(known) if known else {}
        return _Source(folder, params_checkpoint.newest_good_step(folder), model, files, extra)
    raise ValueError(
        f"checkpoint must be the work directory of a run or an imported checkpoint: got {folder} (--checkpoint)"
    )


def _run_source(folder: pathlib.Path, tokenizer: str) -> _Source:
    config = load_run_config(folder)
    trained = build.load_tokenizer(config)
    step = params_checkpoint.newest_good_step(folder / "checkpoints")
    host = params_checkpoint.read_host(folder / "checkpoints", step)
    files = hf_files.tokenizer_files(tokenizer or config.tokenizer or config.weights)
    for name, mine in (("config.tokenizer", trained), ("--tokenizer", _tokenizer_in(files))):
        if mine is not None:
            check_trained_with(mine, host, str(folder), name)
    model, data = build.model_config(config, trained), config.data
    # The policy was trained with these sizes, whatever the tokenizer's directory says.
    files |= hf_files.preprocessor_file(data.min_pixels, data.max_pixels, model)
    extra, weights = hf_files.token_ids(trained), written_keys(folder).get("weights", "")
    return _Source(folder / "checkpoints", step, model, files, extra, build.lora(config), weights)


def _tokenizer_in(files: dict[str, bytes]) -> Tokenizer | None:
    return Tokenizer(files[FILE_NAME].decode(), FILE_NAME) if FILE_NAME in files else None
