"""A model family that differs from the bundled ones wherever it may: what proves that a family is one record.

Its tensors have other names, its stack of layers stands elsewhere, its positions are ordinary ones, its tower is one
linear map without windows, and an image token has features on two levels: the first takes the place of the token's
embedding, the second is added behind the first layer, as Qwen3-VL does with several.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from arft_jax.models.cache import KVCache, read, write
from arft_jax.models.decoders.packing import sequential_positions
from arft_jax.models.family import Family, Grid, ImagePacking, WeightNames
from arft_jax.models.layers import (
    Constrain,
    Linear,
    RMSNorm,
    scan_layers,
    stack_layers,
    truncated_normal,
    unconstrained,
    unstack_layers,
)
from arft_jax.models.lora import NO_LORA, Lora
from arft_jax.models.qwen2_5_vl.config import TextConfig
from arft_jax.models.qwen2_5_vl.text import DecoderLayer
from arft_jax.ops.attention import attend_causal
from arft_jax.ops.cached_attention import attend_cached
from arft_jax.ops.rotary import mrope_angles

PATCH, MERGE, LEVELS = 14, 2, 2
PATCH_DIM = 3 * 2 * PATCH**2


@dataclasses.dataclass(frozen=True)
class ToySizes:
    """Sizes; the tower has none of its own."""

    text: TextConfig
    image_id: int
    vision: str = "linear"

    @property
    def family(self) -> Family:
        """The record."""
        return TOY

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "ToySizes":
        """Reads width, depth, heads and ids; of the nested layout that configs write, the decoder's part."""
        keys = config.get("text_config", config)
        heads, width = keys["num_attention_heads"], keys["hidden_size"]
        text = TextConfig(
            vocab_size=keys["vocab_size"], dim=width, mlp_dim=2 * width, n_layers=keys["num_hidden_layers"],
            n_heads=heads, n_kv_heads=heads, mrope_section=(width // heads // 2, 0, 0), tied=True, qkv_bias=False,
        )  # fmt: skip
        return cls(text, config["image_id"])

    def to_hf(self) -> dict[str, Any]:
        """The layout of ``config.json``."""
        text = self.text
        return {
            "model_type": "toy",
            "hidden_size": text.dim,
            "num_hidden_layers": text.n_layers,
            "num_attention_heads": text.n_heads,
            "vocab_size": text.vocab_size,
            "image_id": self.image_id,
        }


class Embeds(NamedTuple):
    """What ``embed`` hands to ``hidden``: the first layer's input, and what is added behind it."""

    x: jax.Array
    deep: jax.Array


class Decoder(nnx.Module):
    """Layers and the final norm."""

    def __init__(self, text: TextConfig, constrain: Constrain, lora: Lora, rngs: nnx.Rngs, **kwargs: Any):
        self.blocks = stack_layers(lambda r: DecoderLayer(text, constrain, lora, rngs=r, **kwargs), text.n_layers, rngs)
        self.norm = RMSNorm(text.dim, text.norm_eps, "embed", param_dtype=kwargs["param_dtype"])


class Toy(nnx.Module):
    """The model; its methods are those of the bundled families' module."""

    def __init__(
        self,
        config: ToySizes,
        *,
        rngs: nnx.Rngs,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        remat: str = "none",
        constrain: Constrain = unconstrained,
        lora: Lora = NO_LORA,
        attend_causal: Callable[..., jax.Array] = attend_causal,
        attend_segments: Callable[..., jax.Array] | None = None,
    ):
        text, kwargs = config.text, {"dtype": dtype, "param_dtype": param_dtype}
        self.config, self.dtype, self.remat, self.attend = config, dtype, remat, attend_causal
        self.table = nnx.Param(
            truncated_normal(rngs, (text.vocab_size, text.dim), text.dim**-0.5, param_dtype), axes=("vocab", "embed")
        )
        self.eye = Linear(
            (MERGE**2 * PATCH_DIM,), (LEVELS * text.dim,), ("patch_dim", "embed"), bias=True, rngs=rngs, **kwargs
        )
        self.decoder = Decoder(text, constrain, lora, rngs, **kwargs)

    def encode(self, patches: jax.Array, layout: "ToyLayout") -> jax.Array:
        """float[C, N, patch_dim] -> float[C, N // 4, 2 D]."""
        c, n, d = patches.shape
        return self.eye(patches.reshape(c, n // MERGE**2, MERGE**2 * d))

    def embed(self, tokens: jax.Array, features: jax.Array, feature_index: jax.Array) -> Embeds:
        """Embeddings, and the second level of the features, 0 at ordinary tokens."""
        x = self.table[...][tokens].astype(self.dtype)
        if features.shape[0] == 0:
            return Embeds(x, jnp.zeros_like(x))
        first, second = jnp.split(features[jnp.clip(feature_index, min=0)].astype(self.dtype), LEVELS, axis=-1)
        is_image = (feature_index >= 0)[:, :, None]
        return Embeds(jnp.where(is_image, first, x), jnp.where(is_image, second, jnp.zeros_like(x)))

    def _rotary(self, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
        text = self.config.text
        angles = mrope_angles(positions, text.head_dim, text.rope_theta, text.mrope_section)
        return jnp.cos(angles), jnp.sin(angles)

    def hidden(
        self, embeds: Embeds, positions: jax.Array, segment_ids: jax.Array, prefix_ids: jax.Array | None = None
    ) -> jax.Array:
        """Whole sequences -> float[B, T, D]."""
        cos, sin = self._rotary(positions)
        ids = (segment_ids,) if prefix_ids is None else (segment_ids, prefix_ids)

        def body(x: jax.Array, layer: nnx.Module, index: jax.Array) -> jax.Array:
            q, k, v = layer.project(x, cos, sin)
            return layer.finish(x, self.attend(q, k, v, *ids)) + jnp.where(index == 0, embeds.deep, 0.0)

        every = jnp.arange(self.config.text.n_layers)
        return self.decoder.norm(scan_layers(body, self.decoder.blocks, embeds.x, every, remat=self.remat))

    def hidden_cached(
        self,
        embeds: Embeds,
        positions: jax.Array,
        cache: KVCache,
        rows: jax.Array | None,
        cols: jax.Array,
        columns: int | None = None,
        layers: Sequence[nnx.Module] | None = None,
    ) -> tuple[jax.Array, KVCache]:
        """The next tokens of cached sequences."""
        columns = cache.length if columns is None else columns
        cos, sin = self._rotary(positions)
        slots = jnp.arange(embeds.x.shape[0], dtype=cols.dtype) if rows is None else rows

        def body(carry: tuple[jax.Array, KVCache], layer: nnx.Module, index: Any) -> tuple[jax.Array, KVCache]:
            x, cache = carry
            q, k, v = layer.project(x, cos, sin)
            cache = write(cache, index, slots, cols, k, v)
            x = layer.finish(x, attend_cached(q, *read(cache, index, rows, columns, q.dtype), cols))
            return x + jnp.where(index == 0, embeds.deep, 0.0), cache

        if cache.is_unstacked:
            carry = (embeds.x, cache)
            for index, layer in enumerate(self.unstacked_layers() if layers is None else layers):
                carry = body(carry, layer, index)
        else:
            every = jnp.arange(self.config.text.n_layers)
            carry = scan_layers(body, self.decoder.blocks, (embeds.x, cache), every)
        return self.decoder.norm(carry[0]), carry[1]

    def unstacked_layers(self, states: Sequence[nnx.State] | None = None) -> list[nnx.Module]:
        """The layers one by one."""
        return unstack_layers(self.decoder.blocks, self.config.text.n_layers, states)

    def unembedding_kernel(self) -> jax.Array:
        """float[D, V]."""
        return self.table[...].T

    def logits(self, hidden: jax.Array, kernel: jax.Array | None = None) -> jax.Array:
        """float[..., D] -> float32[..., V]."""
        kernel = self.unembedding_kernel() if kernel is None else kernel
        return jnp.einsum("...d,dv->...v", hidden, kernel.astype(self.dtype)).astype(jnp.float32)


class ToyLayout(NamedTuple):
    """Which image each patch is of, -1 for padding."""

    segment_ids: np.ndarray


def _layout(grids: Sequence[Grid], n_patches: int, n_windows: int) -> ToyLayout:
    owners = np.repeat(np.arange(len(grids), dtype=np.int32), [int(np.prod(grid)) for grid in grids])
    return ToyLayout(np.pad(owners, (0, n_patches - len(owners)), constant_values=-1).astype(np.int32))


_LINEARS = {f"decoder.blocks.{name}": f"stack.{{}}.attention.{name}" for name in "qkvo"}
_LINEARS |= {f"decoder.blocks.mlp.{name}": f"stack.{{}}.feed.{name}" for name in ("gate", "up", "down")}

TOY = Family(
    name="toy",
    title="Toy",
    reads=("toy",),
    config_from_hf=ToySizes.from_hf,
    make=Toy,
    packing=lambda sizes: ImagePacking(
        PATCH, MERGE, PATCH_DIM, windows_of=lambda grid: 0, layout=_layout, positions=sequential_positions
    ),
    weights=WeightNames(
        names={
            "table": "words.table",
            "eye.kernel": "eye.weight",
            "eye.bias": "eye.bias",
            "decoder.norm.scale": "last_norm.gain",
            "decoder.blocks.norm1.scale": "stack.{}.norm_a.gain",
            "decoder.blocks.norm2.scale": "stack.{}.norm_b.gain",
            **{f"{ours}.kernel": f"{theirs}.weight" for ours, theirs in _LINEARS.items()},
        },
        two_input_axes=("decoder.blocks.o.kernel",),
        tied=("table", "table"),
    ),
    feature_dim=lambda sizes: LEVELS * sizes.text.dim,
    control_ids={"image_id": "<|image_pad|>"},
    layers=("decoder", "blocks"),
    tower="eye",
)
