"""What a model family is: one record of everything that the rest of the package asks about a kind of model.

A family is a folder beside this file with one :class:`Family`, and one line in ``families.py``. A family of your own
is the same record anywhere else, named in a config by its import path (``config.model.family``).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from flax import nnx

Grid = tuple[int, int, int]


class Sizes(Protocol):
    """The sizes of one model of a family: what ``Family.config_from_hf`` returns.

    Args:
      family: the record.
      text: the decoder's sizes; ``vocab_size``, ``dim``, ``n_layers``, ``n_kv_heads``, ``head_dim`` and ``tied`` are
        read outside of the family.
      vision: the tower's sizes; None where the model takes no images.
    """

    @property
    def family(self) -> "Family": ...

    text: Any
    vision: Any

    def to_hf(self) -> dict[str, Any]:
        """The contents of ``config.json``; the family's ``config_from_hf`` reads them back."""


@dataclasses.dataclass(frozen=True)
class ImagePacking:
    """How the vision tower of one model takes images, all of it on the host.

    Args:
      patch: side of a patch, px.
      merge: side of a merge block in patches; merge² patches make one image token.
      patch_dim: numbers of a flattened patch.
      windows_of: patch grid (1, h, w) -> attention windows that the image takes of a chunk; 0 without windows.
      layout: (grids, n_patches, n_windows) -> a NamedTuple of arrays: where the patches of one chunk belong. One array
        is ``segment_ids``, int32[n_patches], the image of each patch and -1 for padding; the others are the tower's
        own. Shapes depend on n_patches and n_windows alone.
      positions: (tokens int32[T], grids, image token id) -> (int32[3, T], next free position) of a sequence that
        begins at 0. A family with ordinary rotary positions gives three equal rows.
    """

    patch: int
    merge: int
    patch_dim: int
    windows_of: Callable[[Grid], int]
    layout: Callable[[Sequence[Grid], int, int], Any]
    positions: Callable[[np.ndarray, Sequence[Grid], int], tuple[np.ndarray, int]]


@dataclasses.dataclass(frozen=True)
class WeightNames:
    """Which published tensor is which parameter.

    A published kernel is [out, in], a parameter [*inputs, *outputs]; a bias is flat; all else has the same shape.

    Args:
      names: dotted path in the model -> name of the tensor; ``{}`` is the layer of a stacked parameter.
      prefixes: (beginning of a name in a file, beginning in ``names``), the first that fits counts: files of several
        layouts are then read alike.
      written: (beginning in ``names``, beginning in the files that are written).
      modules: (beginning in ``names``, beginning of the name of the module in transformers' model), which adapters are
        named after; empty: as ``written``.
      matrices: paths of parameters that are published transposed although their path does not end in ``kernel``.
      two_input_axes: paths of kernels with two input axes.
      convolutions: path -> published shape behind the output axis, of kernels that are published as a convolution's.
      ignored: endings of names that no parameter needs.
      tied: paths of the embedding and of the unembedding, which a model with tied embeddings does not have.
    """

    names: Mapping[str, str]
    prefixes: tuple[tuple[str, str], ...] = ()
    written: tuple[tuple[str, str], ...] = ()
    modules: tuple[tuple[str, str], ...] = ()
    matrices: tuple[str, ...] = ("text.unembedding",)
    two_input_axes: tuple[str, ...] = ()
    convolutions: Mapping[str, Callable[[Any], tuple[int, ...]]] = dataclasses.field(default_factory=dict)
    ignored: tuple[str, ...] = ("rotary_emb.inv_freq", "rotary_pos_emb.inv_freq")  # computed, kept by some old files
    tied: tuple[str, str] = ("text.embedding", "text.unembedding")


@dataclasses.dataclass(frozen=True)
class Family:
    """One kind of model.

    The module that ``make`` builds has the methods ``encode(patches, layout)``, ``embed(tokens, features,
    feature_index)``, ``hidden(embeds, positions, segment_ids, prefix_ids=None)``, ``hidden_cached``,
    ``unstacked_layers``, ``unembedding_kernel`` and ``logits``, as the bundled one documents them. What ``embed``
    returns goes to ``hidden`` and ``hidden_cached`` as it is, so it may be any pytree. The turns of a conversation are
    framed as in ChatML for every family.

    Args:
      name: word for messages.
      title: how people call it.
      reads: values of ``model_type`` in ``config.json``.
      config_from_hf: contents of ``config.json``, or the keys of ``config.model`` in the same layout -> sizes.
      make: (sizes, *, rngs, dtype, param_dtype, remat, constrain, lora, attend_causal, attend_segments) -> the module;
        all but sizes and rngs are optional.
      packing: sizes -> how images are taken.
      weights: names of the published tensors.
      feature_dim: sizes -> numbers of one image token's features. A family that adds features to several layers of the
        decoder keeps them side by side: levels * D.
      control_ids: field of sizes and of ``config.json`` -> the control token that it is the id of.
      with_tower: (sizes, ``vision_config``, control ids, ids of the tokenizer) -> sizes of the same decoder behind a
        fresh tower, for ``config.model.vision``; None where a fresh tower is not to be had.
      sizes: published sizes, for ``config.model.size``.
      published: one of them -> sizes.
      processor: class names in ``preprocessor_config.json``, for readers other than this package.
      layers: where the decoder's stack of layers stands in the parameters.
      tower: where the vision tower stands.
      branch_shares: sizes -> how often each branch of a conditional in the tower is taken, for cost estimates.
      boxes: the units in which the model writes boxes, one of ``tools.crop.FRAMES``; the crop tool reads them so where
        ``config.tools.crop_frame`` is empty.
    """

    name: str
    title: str
    reads: tuple[str, ...]
    config_from_hf: Callable[[Mapping[str, Any]], Any]
    make: Callable[..., nnx.Module]
    packing: Callable[[Any], ImagePacking]
    weights: WeightNames
    feature_dim: Callable[[Any], int] = lambda sizes: sizes.text.dim
    control_ids: Mapping[str, str] = dataclasses.field(default_factory=dict)
    with_tower: Callable[[Any, Mapping[str, Any], Mapping[str, int], int], Any] | None = None
    sizes: tuple[str, ...] = ()
    published: Callable[[str], Any] | None = None
    processor: Mapping[str, str] = dataclasses.field(default_factory=dict)
    layers: tuple[str, ...] = ("text", "layers")
    tower: str = "vision"
    branch_shares: Callable[[Any], tuple[float, ...]] = lambda sizes: ()
    boxes: str = "permille"
