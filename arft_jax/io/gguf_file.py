"""GGUF files, the format of llama.cpp: sizes, tensors and tokenizer of a text decoder.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Tensors are dequantised with the ``gguf`` package (an
extra) a few rows at a time and appear under their names in a Hugging Face directory, so that one set of rules serves
both. llama.cpp turns Llama's rotary pairs (i, i + H/2) into (2i, 2i + 1) by permuting the rows of the query and key
projections; here the rows are put back.
"""

import contextlib
import json
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from arft_jax.data.tokenizer import FILE_NAME
from arft_jax.io.weight_rules import Header

SUFFIX = ".gguf"
_PERMUTED = {"llama"}  # architectures whose query and key rows llama.cpp permutes
_ARCHITECTURES = ("llama", "qwen2")
_TENSORS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_output": "self_attn.o_proj",
    **{f"attn_{name}": f"self_attn.{name}_proj" for name in "qkv"},
    **{f"ffn_{name}": f"mlp.{name}_proj" for name in ("gate", "up", "down")},
}
_BLOCK = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
_CONTROL, _USER_DEFINED = 3, 4  # token types

_QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _bytes_step(use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _split_step(pattern: str) -> list[dict[str, Any]]:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return [split, _bytes_step(False)]


# tokenizer.ggml.pre -> how text is cut before the merges.
_CUTS = {
    "smollm": [{"type": "Digits", "individual_digits": True}, _bytes_step(True)],
    "gpt-2": [_bytes_step(True)],
    "qwen2": _split_step(_QWEN2_SPLIT),
    "llama-bpe": _split_step(_QWEN2_SPLIT.replace(r"\p{N}|", r"\p{N}{1,3}|")),
}


def is_gguf(path: str | os.PathLike) -> bool:
    """Whether a path is a GGUF file's, by its ending."""
    return pathlib.Path(path).suffix.lower() == SUFFIX


def _package() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise ValueError(
            "a GGUF file must be read with the package gguf: pip install 'arft_jax[gguf]' (config.weights)"
        ) from error
    return gguf


def _reader(path: str | os.PathLike) -> Any:
    gguf = _package()
    if not pathlib.Path(path).is_file():
        raise ValueError(f"weights must be a file: got {path}, which is none (config.weights)")
    try:
        return gguf.GGUFReader(path)
    except Exception as error:  # a file cut short raises what numpy happens to raise
        raise ValueError(f"{path} must be a GGUF file: {type(error).__name__}: {error} (config.weights)") from error


def _field(reader: Any, name: str, default: Any = None) -> Any:
    field = reader.fields.get(name)
    return default if field is None else field.contents()


def _architecture(reader: Any, path: str | os.PathLike) -> str:
    kind = _field(reader, "general.architecture")
    if kind not in _ARCHITECTURES:
        known = " or ".join(_ARCHITECTURES)
        raise ValueError(f"general.architecture must be {known}: got {kind!r} in {path} (config.weights)")
    return kind


def hf_config(path: str | os.PathLike) -> dict[str, Any]:
    """The contents of a ``config.json`` that says the same as the file's metadata.

    Raises:
      ValueError: no GGUF file, no package to read it, metadata that are missing, or a model of another form.
    """
    reader = _reader(path)
    kind = _architecture(reader, path)
    names = {tensor.name for tensor in reader.tensors}
    rope = _field(reader, f"{kind}.rope.scaling.type", "none")
    if "rope_freqs.weight" in names:
        rope = "llama3"
    if rope != "none":
        raise ValueError(f"rope scaling must be none: got {rope} in {path} (config.weights)")
    if _field(reader, f"{kind}.expert_count", 0):
        raise ValueError(f"the decoder must be dense: got experts in {path} (config.weights)")
    keys = {
        "hidden_size": "embedding_length",
        "intermediate_size": "feed_forward_length",
        "num_hidden_layers": "block_count",
        "num_attention_heads": "attention.head_count",
        "rms_norm_eps": "attention.layer_norm_rms_epsilon",
        "max_position_embeddings": "context_length",
    }
    config = {theirs: _field(reader, f"{kind}.{ours}") for theirs, ours in keys.items()}
    absent = [f"{kind}.{keys[name]}" for name, value in config.items() if value is None]
    embedding = next((tensor for tensor in reader.tensors if tensor.name == "token_embd.weight"), None)
    if absent or embedding is None or len(embedding.shape) != 2:
        raise ValueError(f"{path} must hold {', '.join(absent) or 'token_embd.weight'} (config.weights)")
    return config | {
        "model_type": kind,
        "vocab_size": int(embedding.shape[1]),
        "num_key_value_heads": _field(reader, f"{kind}.attention.head_count_kv", config["num_attention_heads"]),
        "head_dim": _field(reader, f"{kind}.rope.dimension_count"),
        "rope_theta": _field(reader, f"{kind}.rope.freq_base", 10_000.0),
        "tie_word_embeddings": "output.weight" not in names,
    }


def _hf_name(name: str) -> str:
    """blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight; a name that is not known stays as it is."""
    block = _BLOCK.fullmatch(name)
    if block and block[2] in _TENSORS:
        return f"model.layers.{block[1]}.{_TENSORS[block[2]]}.{block[3]}"
    stem, _, kind = name.rpartition(".")
    return f"{_TENSORS[stem]}.{kind}" if stem in _TENSORS else name


class GgufTensors:
    """The tensors of a file, as float32 under their names in a Hugging Face directory.

    Args:
      path: the file.
    """

    def __init__(self, path: str | os.PathLike):
        reader = _reader(path)
        kind = _architecture(reader, path)
        self._dequantize, self._path = _package().quants.dequantize, path
        self._tensors = {_hf_name(tensor.name): tensor for tensor in reader.tensors}
        self.headers = {
            name: Header(tuple(int(n) for n in tensor.shape[::-1]), "float32") for name, tensor in self._tensors.items()
        }
        n_heads = _field(reader, f"{kind}.attention.head_count", 1)
        self._n_heads = {}
        if kind in _PERMUTED:
            self._n_heads = {"q_proj": n_heads, "k_proj": _field(reader, f"{kind}.attention.head_count_kv", n_heads)}

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """A tensor, or rows ``start`` to ``stop`` of it.

        Raises:
          ValueError: a quantisation that the package does not undo.
        """
        tensor, n_rows = self._tensors[name], self.headers[name].shape[0]
        rows: Any = slice(start, stop)
        part = name.split(".")[-2]
        if part in self._n_heads:
            rows = _row_of(n_rows, self._n_heads[part])[rows]
        try:
            return np.ascontiguousarray(self._dequantize(tensor.data[rows], tensor.tensor_type), np.float32)
        except NotImplementedError as error:
            raise ValueError(f"{name} of {self._path} must be dequantised: {error} (config.weights)") from error

    def path_of(self, name: str) -> str | os.PathLike:
        """The file."""
        return self._path

    def is_same(self, one: str, other: str) -> bool:
        """Whether two tensors have the same values."""
        return np.array_equal(self.read(one), self.read(other))


def _row_of(n_rows: int, n_heads: int) -> np.ndarray:
    """For each row of a published projection the row of the file: 2i of a head for i, 2i + 1 for i + H/2.

    One head of 4 rows: [0, 2, 1, 3].
    """
    return np.arange(n_rows).reshape(n_heads, -1, 2).swapaxes(1, 2).reshape(-1)


@contextlib.contextmanager
def open_tensors(path: str | os.PathLike) -> Iterator[GgufTensors]:
    """As ``safetensors_dir.open_tensors``."""
    yield GgufTensors(path)


def tokenizer_text(path: str | os.PathLike) -> str:
    """The JSON of a ``tokenizer.json``: of the one beside the file, else made from the file's own vocabulary.

    Raises:
      ValueError: no byte-level BPE, or one that cuts text in a way that is not known here.
    """
    beside = pathlib.Path(path).parent / FILE_NAME
    if beside.is_file():
        return beside.read_text(encoding="utf-8")
    reader = _reader(path)
    kind, cut = _field(reader, "tokenizer.ggml.model"), _field(reader, "tokenizer.ggml.pre", "gpt-2")
    if kind != "gpt2" or cut not in _CUTS:
        raise ValueError(
            f"the tokenizer of a GGUF file must be a byte-level BPE cut as {', '.join(_CUTS)}: got {kind!r}, {cut!r}; "
            f"put its {FILE_NAME} beside {path} (config.tokenizer)"
        )
    tokens, types = _field(reader, "tokenizer.ggml.tokens"), _field(reader, "tokenizer.ggml.token_type")
    plain = dict(single_word=False, lstrip=False, rstrip=False, normalized=False)
    added = [
        dict(id=i, content=token, special=kind == _CONTROL, **plain)
        for i, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (_CONTROL, _USER_DEFINED)
    ]
    layout = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"} if cut == "qwen2" else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": _CUTS[cut]},
        "post_processor": None,
        "decoder": _bytes_step(True),
        "model": {
            "type": "BPE",
            "ignore_merges": cut == "llama-bpe",
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": _field(reader, "tokenizer.ggml.merges"),
        },
    }
    return json.dumps(layout, ensure_ascii=False)
