"""Parity with transformers' Qwen2.5-VL on random weights: the cases, the oracle and what counts as equal.

The oracle is ``Qwen2_5_VLForConditionalGeneration`` (transformers, torch on the CPU), built from the same small
configuration and filled with the same weights. Its positions come from its own ``get_rope_index``, its
windows from its own window index: nothing of ours goes into it but token ids, patches and masks.

Images that touch without control tokens between them are not among the cases: there transformers takes two
images for one and stops.
"""

import contextlib
import dataclasses
import unittest.mock
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from arft_jax.data.tokenizer import Tokenizer
from arft_jax.io.weights import params_from_hf
from arft_jax.models.qwen2_5_vl import text, vision
from arft_jax.models.qwen2_5_vl.config import ModelConfig
from arft_jax.models.qwen2_5_vl.model import Qwen2_5_VL
from arft_jax.models.qwen2_5_vl.packing import VisionLayout, pack_layout
from arft_jax.models.qwen2_5_vl.positions import mrope_positions
from arft_jax.testing.tiny_model import tiny_config

Grid = tuple[int, int, int]

TOLERANCE = 1e-4  # float32 in both, sums in another order
VOCAB_SIZE = 1040  # the embedded tokenizer's 1024 ids, padded as the published models' vocabularies are

EN = "What does the sign in the second photograph say? Think step by step, then answer."
EN_SHORT = "Compare it with this:"
ZH = "图片里的字是什么？请先推理。"
ZH_SHORT = "再看一张。"
ASKED = "system\nYou are a helpful assistant.\nuser\nWho painted it?\nassistant\n<search>the painter</search>"

WHOLE, EDGE, WIDE, DOT, TALL, THIN = (1, 8, 16), (1, 10, 14), (1, 6, 22), (1, 2, 2), (1, 18, 10), (1, 2, 46)


class Sizes(NamedTuple):
    """Sizes to which a batch is padded: rows, tokens a row, tokens where packed into one row, patches, windows."""

    n_rows: int = 4
    n_tokens: int = 288
    n_packed: int = 640
    n_patches: int = 1024
    n_windows: int = 36


COMMON = Sizes()  # of every case: one compiled program serves them all, and each has padding


def tolerance(expected: np.ndarray) -> float:
    """1e-4 · max(1, max|expected|): absolute up to values of 1, relative to the largest value beyond.

    >>> tolerance(np.array([0.5])), tolerance(np.array([-20.0, 3.0]))
    (0.0001, 0.002)
    """
    return TOLERANCE * max(1.0, float(np.abs(expected).max()))


# ---------------------------------------------------------------------------------------------- cases


@dataclasses.dataclass(frozen=True)
class Case:
    """One batch: rows of text pieces and images (their grids in patches) in order.

    Args:
      name: what the table calls it.
      rows: pieces of each row.
      padding: ``right`` or ``left`` of the shorter rows, or ``packed``: all rows in one sequence of ours.
    """

    name: str
    rows: tuple[tuple[str | Grid, ...], ...]
    padding: str = "right"


_FIVE = (EDGE, ZH_SHORT, WIDE, EN_SHORT, DOT, WHOLE, ZH_SHORT, TALL, EN)
_MIXED = ((EN,), (ZH, EDGE, EN_SHORT), (EDGE, WIDE, ZH), _FIVE)
CASES = (
    Case("no image, English", ((EN,),)),
    Case("no image, Chinese", ((ZH,),)),
    Case("no image, rows of both, left padding", ((EN,), (ZH,), (EN_SHORT,)), "left"),
    Case("1 image of whole windows", ((EN, WHOLE, EN_SHORT),)),
    Case("1 image with edge windows, Chinese", ((ZH, EDGE, ZH_SHORT),)),
    Case("1 image of one token", ((EN, DOT, EN_SHORT),)),
    Case("1 image long and thin", ((EN, THIN, EN_SHORT),)),
    Case("2 images with edge windows, text between", ((EN, EDGE, EN_SHORT, WIDE, ZH),)),
    Case("2 images with edge windows, adjacent", ((EN, EDGE, WIDE, ZH),)),
    Case("5 images, text between some", (_FIVE,)),
    Case("5 images, adjacent, in front", ((DOT, WIDE, EDGE, DOT, WHOLE, ZH),)),
    Case("images in later turns only", ((ASKED, EDGE, EN_SHORT, ASKED, WIDE, ZH),)),
    Case("rows of 0, 1, 2, 5 images, right padding", _MIXED),
    Case("rows of 0, 1, 2, 5 images, left padding", _MIXED, "left"),
    Case("rows of 0, 1, 2, 5 images, packed into one", _MIXED, "packed"),
)
TWO_IMAGES = CASES[7]


class Batch(NamedTuple):
    """A case with its ids and pixels.

    Args:
      padding: as in Case.
      rows: int32[t] of each row.
      grids: of each row's images.
      patches: float32[n, patch_dim], all rows' images one after the other.
    """

    padding: str
    rows: list[np.ndarray]
    grids: list[list[Grid]]
    patches: np.ndarray

    @property
    def all_grids(self) -> list[Grid]:
        """Grids in the order of ``patches``."""
        return [grid for row in self.grids for grid in row]


def parity_config(tied: bool) -> ModelConfig:
    """The tiny model with a vocabulary for the embedded tokenizer and that tokenizer's control tokens."""
    tokenizer = Tokenizer.tiny()
    return dataclasses.replace(
        tiny_config(tied=tied, vocab_size=VOCAB_SIZE),
        image_token_id=tokenizer.image_pad_id,
        video_token_id=tokenizer.video_pad_id,
        vision_start_token_id=tokenizer.vision_start_id,
        vision_end_token_id=tokenizer.vision_end_id,
    )


def make_batch(case: Case, config: ModelConfig, seed: int = 0) -> Batch:
    """Tokenises the text, frames each image by its control tokens and draws normal patches."""
    tokenizer, merge = Tokenizer.tiny(), config.vision.merge
    rows, grids = [], []
    for row in case.rows:
        ids: list[int] = []
        for piece in row:
            if isinstance(piece, str):
                ids += tokenizer.encode(piece)
            else:
                n = piece[1] * piece[2] // merge**2
                ids += [config.vision_start_token_id, *[config.image_token_id] * n, config.vision_end_token_id]
        rows.append(np.array(ids, np.int32))
        grids.append([piece for piece in row if not isinstance(piece, str)])
    n_patches = sum(h * w for row in grids for _, h, w in row)
    patches = np.random.default_rng(seed).normal(size=(n_patches, config.vision.patch_dim)).astype(np.float32)
    return Batch(case.padding, rows, grids, patches)


def _starts(batch: Batch, length: int) -> list[int]:
    """First column of each row in a padded array of ``length`` columns."""
    return [length - len(row) if batch.padding == "left" else 0 for row in batch.rows]


# ----------------------------------------------------------------------------------------------- ours


class Inputs(NamedTuple):
    """What our model takes; ``patches`` and ``layout`` hold one chunk, of no patches where there is no image.

    ``valid`` is bool[B, T], True at tokens. Rows beyond the case's own and columns beyond a row are padding.
    """

    tokens: np.ndarray
    feature_index: np.ndarray
    positions: np.ndarray
    segment_ids: np.ndarray
    valid: np.ndarray
    patches: np.ndarray
    layout: VisionLayout


def make_inputs(
    batch: Batch, config: ModelConfig, sizes: Sizes = COMMON, segment: Callable[[int], int] = lambda row: row
) -> Inputs:
    """Our arrays of a batch.

    Args:
      batch: the case.
      config: of the model.
      sizes: to pad to.
      segment: row -> segment id; all different, unless a leak is to be planted.
    """
    packed = batch.padding == "packed"
    shape = (1, sizes.n_packed) if packed else (sizes.n_rows, sizes.n_tokens)
    tokens, index = np.zeros(shape, np.int32), np.full(shape, -1, np.int32)
    positions, segments = np.zeros((shape[0], 3, shape[1]), np.int32), np.full(shape, -1, np.int32)
    starts = np.cumsum([0, *map(len, batch.rows)]) if packed else _starts(batch, sizes.n_tokens)
    n_features = 0
    for i, row in enumerate(batch.rows):
        at, span = 0 if packed else i, slice(starts[i], starts[i] + len(row))
        is_image = row == config.image_token_id
        tokens[at, span], segments[at, span] = row, segment(i)
        index[at, span] = np.where(is_image, n_features + np.cumsum(is_image) - 1, -1)
        positions[at, :, span] = mrope_positions(row, batch.grids[i], config.image_token_id, config.vision.merge)[0]
        n_features += int(is_image.sum())
    tower, grids = config.vision, batch.all_grids
    places = (sizes.n_patches, sizes.n_windows) if grids else (0, 0)
    patches = np.zeros((1, places[0], tower.patch_dim), np.float32)
    patches[0, : len(batch.patches)] = batch.patches
    layout = pack_layout(grids, *places, tower.window_px, tower.patch_px, tower.merge)
    layout = VisionLayout(*(a[None] for a in layout))
    return Inputs(tokens, index, positions, segments, segments >= 0, patches, layout)


def our_logits(model: Qwen2_5_VL, inputs: Inputs) -> jax.Array:
    """float32[B, T, V], padding included; can be traced."""
    features = jnp.zeros((0, model.config.text.dim), jnp.float32)
    if inputs.patches.shape[1]:
        features = model.encode(jnp.asarray(inputs.patches), jax.tree.map(jnp.asarray, inputs.layout))[0]
    embeds = model.embed(jnp.asarray(inputs.tokens), features, jnp.asarray(inputs.feature_index))
    hidden = model.hidden(embeds, jnp.asarray(inputs.positions), jnp.asarray(inputs.segment_ids))
    return model.logits(hidden)


@contextlib.contextmanager
def _recorded(module: Any, prefix: str, found: dict[str, jax.Array]) -> Iterator[None]:
    """Unrolls the scan of a module's layers and keeps what goes in and what each layer gives."""

    def unrolled(body: Any, layers: nnx.Module, carry: jax.Array, xs: Any = None, *, remat: str = "none") -> jax.Array:
        graphdef, state = nnx.split(layers)
        found[f"{prefix} in"] = carry
        for i in range(len(jax.tree.leaves(state)[0])):
            one, x = jax.tree.map(lambda a, at=i: a[at], (state, xs))
            carry = body(carry, nnx.merge(graphdef, one), x)
            found[f"{prefix} {i}"] = carry
        return carry

    with unittest.mock.patch.object(module, "scan_layers", unrolled):
        yield


def our_stages(model: Qwen2_5_VL, inputs: Inputs) -> dict[str, jax.Array]:
    """Every layer's output by name; can be traced. The layers' code is the model's own, unrolled."""
    found: dict[str, jax.Array] = {}
    features = jnp.zeros((0, model.config.text.dim), jnp.float32)
    if inputs.patches.shape[1]:
        with _recorded(vision, "vision block", found):
            features = model.encode(jnp.asarray(inputs.patches), jax.tree.map(jnp.asarray, inputs.layout))[0]
        found["vision merger"] = features[None]
    embeds = model.embed(jnp.asarray(inputs.tokens), features, jnp.asarray(inputs.feature_index))
    with _recorded(text, "text layer", found):
        found["text norm"] = model.hidden(embeds, jnp.asarray(inputs.positions), jnp.asarray(inputs.segment_ids))
    return found | {"logits": model.logits(found["text norm"])}


def compact(name: str, value: jax.Array, batch: Batch, valid: np.ndarray, merge: int) -> np.ndarray:
    """A stage of ours without padding: float32[tokens or patches or features, width]."""
    value = np.asarray(value.astype(jnp.float32))
    if not name.startswith("vision"):
        return value[np.asarray(valid)]
    return value[0, : len(batch.patches) // (merge**2 if name == "vision merger" else 1)]


# --------------------------------------------------------------------------------------------- theirs


class Pair(NamedTuple):
    """(transformers' model, ours) with the same weights."""

    theirs: Any
    ours: Qwen2_5_VL


def make_pair(tied: bool, seed: int = 0) -> Pair:
    """Random weights, norms and biases far from 1 and 0, all of them exact in bfloat16 as published ones are."""
    import torch
    import transformers

    config = parity_config(tied)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        theirs = transformers.Qwen2_5_VLForConditionalGeneration(transformers.Qwen2_5_VLConfig(**config.to_hf())).eval()
        with torch.no_grad():
            for name, value in theirs.named_parameters():
                drawn = torch.randn_like(value)
                if "norm" in name or "ln_q" in name:
                    drawn = 1.0 + 0.3 * drawn
                else:
                    drawn *= 0.3 if name.endswith("bias") else value[0].numel() ** -0.5
                value.copy_(drawn.bfloat16())
            theirs.tie_weights()
    return Pair(theirs, _ours_from(theirs, config, jnp.float32))


def _ours_from(theirs: Any, config: ModelConfig, dtype: Any) -> Qwen2_5_VL:
    ours = nnx.eval_shape(lambda: Qwen2_5_VL(config, rngs=nnx.Rngs(0), dtype=dtype, param_dtype=dtype))
    tensors = {name: value.float().numpy() for name, value in theirs.state_dict().items()}
    nnx.update(ours, params_from_hf(nnx.state(ours, nnx.Param), tensors))
    return ours


def in_bfloat16(pair: Pair) -> Pair:
    """Both models with bfloat16 weights and arithmetic; rotary frequencies stay float32 in both.

    (transformers keeps them float32 when it loads a bfloat16 checkpoint; ``model.to(bfloat16)`` would not.)
    """
    import copy

    theirs = copy.deepcopy(pair.theirs)
    for parameter in theirs.parameters():
        parameter.data = parameter.data.bfloat16()
    theirs.tie_weights()
    return Pair(theirs, _ours_from(theirs, pair.ours.config, jnp.bfloat16))


def their_inputs(theirs: Any, batch: Batch) -> tuple[dict[str, Any], np.ndarray]:
    """(arguments of transformers' forward, bool[B, T] valid): shorter rows padded, positions by get_rope_index."""
    import torch

    length = max(map(len, batch.rows))
    ids, valid = np.zeros((len(batch.rows), length), np.int64), np.zeros((len(batch.rows), length), bool)
    for i, (row, start) in enumerate(zip(batch.rows, _starts(batch, length), strict=True)):
        ids[i, start : start + len(row)], valid[i, start : start + len(row)] = row, True
    tokens, mask = torch.tensor(ids), torch.tensor(valid.astype(np.int64))
    images = {}
    if batch.all_grids:
        images = {"pixel_values": torch.tensor(batch.patches), "image_grid_thw": torch.tensor(batch.all_grids)}
    kinds = (tokens == theirs.config.image_token_id).int()
    positions, _ = theirs.model.get_rope_index(
        tokens, kinds, image_grid_thw=images.get("image_grid_thw"), attention_mask=mask
    )
    shared = {"input_ids": tokens, "attention_mask": mask, "mm_token_type_ids": kinds, "position_ids": positions}
    return shared | images, valid


def their_stages(theirs: Any, batch: Batch, offset: int = 0) -> dict[str, np.ndarray]:
    """Every layer's output by the names of :func:`our_stages`, without padding, patches in the image's order.

    Args:
      theirs: transformers' model.
      batch: the case.
      offset: added to every position.
    """
    import torch

    found: dict[str, Any] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            found[name] = output[0] if isinstance(output, tuple) else getattr(output, "pooler_output", output)

        return hook

    tower, decoder = theirs.model.visual, theirs.model.language_model
    hooks = [
        tower.patch_embed.register_forward_hook(keep("vision block in")),
        tower.register_forward_hook(keep("vision merger")),
        decoder.register_forward_pre_hook(
            lambda _module, _args, kwargs: found.update({"text layer in": kwargs["inputs_embeds"]}), with_kwargs=True
        ),
        decoder.norm.register_forward_hook(keep("text norm")),
        *(block.register_forward_hook(keep(f"vision block {i}")) for i, block in enumerate(tower.blocks)),
        *(layer.register_forward_hook(keep(f"text layer {i}")) for i, layer in enumerate(decoder.layers)),
    ]
    arguments, valid = their_inputs(theirs, batch)
    arguments["position_ids"] = arguments["position_ids"] + offset
    try:
        with torch.no_grad():
            found["logits"] = theirs(**arguments, use_cache=False).logits
    finally:
        for hook in hooks:
            hook.remove()
    if batch.all_grids:
        order = np.argsort(_patch_order(theirs.config.vision_config, batch.all_grids))
        for i in range(len(tower.blocks)):
            found[f"vision block {i}"] = found[f"vision block {i}"][order]
    found = {name: value.float().numpy() for name, value in found.items()}
    return {name: value if name.startswith("vision") else value[valid] for name, value in found.items()}


def _patch_order(config: Any, grids: Sequence[Grid]) -> np.ndarray:
    """int[n_patches]: the patch that stands at each place inside transformers' tower, window by window."""
    import torch
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import get_vision_window_index

    blocks, _ = get_vision_window_index(
        torch.tensor(grids),
        spatial_merge_size=config.spatial_merge_size,
        window_size=config.window_size,
        patch_size=config.patch_size,
    )
    unit = config.spatial_merge_size**2
    return (np.asarray(blocks)[:, None] * unit + np.arange(unit)).reshape(-1)
