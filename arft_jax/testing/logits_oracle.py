"""What transformers' Qwen2.5-VL computes, kept in a small file, so that a test can compare with it without torch.

The file holds token ids and image grids of three sequences (0, 1 and 3 images of different sizes), the names and shapes
of transformers' own state dict, and what its model gives for them in float32: M-RoPE positions, image features, and
the logits at every position, with tied and with untied embeddings. Weights and pixels are not in it: both are drawn
from ``numpy.random.RandomState``, whose stream numpy promises not to change (NEP 19).

    python -m arft_jax.testing.logits_oracle tests/models/qwen2_5_vl/transformers_logits.npz

writes the file (it needs the ``torch`` extra); ``pytest -m torch -k logits_oracle`` compares it with what transformers
gives now.
"""

import json
import os
import sys
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx

from arft_jax.io.weights import params_from_hf
from arft_jax.models.qwen2_5_vl.config import ModelConfig
from arft_jax.models.qwen2_5_vl.model import Qwen2_5_VL
from arft_jax.testing import parity
from arft_jax.testing.tiny_model import tiny_config

VOCAB_SIZE = 96
NORM_EPS = 0.01  # of the decoder: large enough that leaving it out moves the logits
HEAD = "lm_head.weight"
# Pieces of each sequence: a number of text tokens, or an image's grid in patches. Of the windows of 8 x 8 patches the
# first and the last image fill none, and no image is square, so that rows and columns cannot be exchanged unseen.
ROWS: tuple[tuple[int | parity.Grid, ...], ...] = (
    (24,),
    (9, (1, 10, 14), 8),
    (5, (1, 6, 22), 6, (1, 2, 2), (1, 18, 10), 7),
)
SIZES = parity.Sizes(n_rows=4, n_tokens=120, n_packed=0, n_patches=512, n_windows=16)
_SPREAD = 0.3  # deviation of norm scales and biases, so that none is 1 or 0
_FAINT = 0.002  # scale of the pixels of the tower's second image: there its epsilon of 1e-6 counts


def oracle_config(tied: bool) -> ModelConfig:
    """Sizes of the model: those of the tiny one, a small vocabulary, a large epsilon."""
    return tiny_config(tied=tied, vocab_size=VOCAB_SIZE, norm_eps=NORM_EPS)


def draw_tensors(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, np.ndarray]:
    """Weights of a published state dict: float32 of each shape, drawn by name, so that order means nothing.

    Matrices have deviation 1/√(fan in), biases 0.3, and norm scales are 1 + 0.3 n.

    Args:
      shapes: of every tensor by its name.
      seed: of all draws.
    """
    tensors = {}
    for name, shape in shapes.items():
        drawn = np.random.RandomState(zlib.crc32(name.encode()) ^ seed).standard_normal(shape)
        if len(shape) > 1:
            drawn *= np.prod(shape[1:]) ** -0.5
        else:
            drawn = _SPREAD * drawn + (not name.endswith("bias"))
        tensors[name] = drawn.astype(np.float32)
    return tensors


def oracle_model(shapes: Mapping[str, tuple[int, ...]], tied: bool, **kwargs: Any) -> Qwen2_5_VL:
    """Our model in float32, filled from the drawn state dict by the loader of published weights.

    Args:
      shapes: the file's.
      tied: whether the embeddings are.
      **kwargs: of the model.
    """
    model = nnx.eval_shape(lambda: Qwen2_5_VL(oracle_config(tied), rngs=nnx.Rngs(0), **kwargs))
    tensors = {name: value for name, value in draw_tensors(shapes).items() if not (tied and name == HEAD)}
    nnx.update(model, params_from_hf(nnx.state(model, nnx.Param), tensors))
    return model


def oracle_batch(rows: list[np.ndarray] | None = None) -> parity.Batch:
    """The three sequences with their pixels.

    Args:
      rows: int32[t] of each, as the file has them; None: drawn, which is how the file came by them.
    """
    config, rng = oracle_config(True), np.random.RandomState(1)
    drawn, grids = [], []
    for row in ROWS:
        ids: list[int] = []
        for piece in row:
            if isinstance(piece, int):
                ids += rng.randint(0, VOCAB_SIZE - 4, piece).tolist()
            else:
                pads = [config.image_token_id] * (piece[1] * piece[2] // config.vision.merge**2)
                ids += [config.vision_start_token_id, *pads, config.vision_end_token_id]
        drawn.append(np.array(ids, np.int32))
        grids.append([piece for piece in row if not isinstance(piece, int)])
    counts = [h * w for row in grids for _, h, w in row]
    patches = rng.standard_normal((sum(counts), config.vision.patch_dim)).astype(np.float32)
    patches[counts[0] : counts[0] + counts[1]] *= np.float32(_FAINT)
    return parity.Batch("right", drawn if rows is None else rows, grids, patches)


def load_oracle(path: str | os.PathLike) -> dict[str, Any]:
    """The file: ``shapes``, ``rows``, ``positions``, ``features``, ``logits_tied``, ``logits_untied``.

    ``rows`` is a list of int32[t]; arrays over tokens hold the rows one behind the other: positions int32[3, n], logits
    float32[n, V]. ``features`` is float32[n_features, D], of all images in order.
    """
    with np.load(path) as file:
        found = dict(file)
    found["shapes"] = {name: tuple(shape) for name, shape in json.loads(str(found["shapes"])).items()}
    found["rows"] = np.split(found.pop("tokens"), np.cumsum(found.pop("lengths"))[:-1])
    return found


def make_oracle() -> dict[str, np.ndarray]:
    """The arrays of the file, from transformers as it is installed."""
    batch, made = oracle_batch(), {}
    for name, tied in (("tied", True), ("untied", False)):
        theirs = their_model(tied)
        stages = parity.their_stages(theirs, batch)
        made[f"logits_{name}"] = stages["logits"]
        made["features"] = stages["vision merger"]
    arguments, valid = parity.their_inputs(theirs, batch)
    made["positions"] = np.moveaxis(arguments["position_ids"].numpy(), 0, 2)[valid].T.astype(np.int32)
    made["tokens"], made["lengths"] = np.concatenate(batch.rows), np.array([len(row) for row in batch.rows], np.int32)
    shapes = {name: list(value.shape) for name, value in theirs.state_dict().items()}
    return made | {"shapes": np.array(json.dumps(shapes))}


def their_model(tied: bool) -> Any:
    """transformers' model in float32 with the drawn weights."""
    import torch
    import transformers

    theirs = transformers.Qwen2_5_VLForConditionalGeneration(
        transformers.Qwen2_5_VLConfig(**oracle_config(tied).to_hf())
    ).eval()
    names = [name for name in theirs.state_dict() if not (tied and name == HEAD)]
    drawn = draw_tensors({name: tuple(theirs.state_dict()[name].shape) for name in names})
    tensors = {name: torch.tensor(value) for name, value in drawn.items()}
    left = theirs.load_state_dict(tensors, strict=not tied)
    if left.unexpected_keys or left.missing_keys not in ([], [HEAD]):
        raise ValueError(f"every tensor must be drawn: got {left}")
    theirs.tie_weights()
    return theirs


if __name__ == "__main__":
    np.savez_compressed(sys.argv[1], **make_oracle())
