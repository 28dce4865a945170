"""The vision tower: patches to features, windowed attention in most blocks and full attention in a few.

Qwen2.5-VL (arXiv 2502.13923, section 2.1.1). Every block runs in one scan; a flag chooses between full and
windowed attention. Windows are gathered to [C, W, window_len, heads, head_dim], so that windowed blocks
cost window_len * N; which patch sits where is data, so a new image size compiles nothing.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from arft_jax.models.layers import Constrain, GatedMLP, Linear, RMSNorm, scan_layers, stack_layers
from arft_jax.models.lora import Lora
from arft_jax.models.qwen2_5_vl.config import VisionConfig
from arft_jax.models.qwen2_5_vl.packing import VisionLayout
from arft_jax.ops.attention import Mask, attend
from arft_jax.ops.rotary import axial_angles, rotate
from arft_jax.ops.shapes import check_axes


def attend_full(
    attend_segments: Callable[..., jax.Array], q: jax.Array, k: jax.Array, v: jax.Array, layout: VisionLayout
) -> jax.Array:
    """Each patch attends to all patches of its image; float[C, N, heads, head_dim] -> the same."""
    return attend_segments(q, k, v, layout.segment_ids)


def attend_windowed(q: jax.Array, k: jax.Array, v: jax.Array, layout: VisionLayout) -> jax.Array:
    """Each patch attends to the patches of its window; float[C, N, heads, head_dim] -> the same."""
    n_chunks, n_windows, window_len = layout.window_index.shape
    index = layout.window_index.reshape(n_chunks, -1)
    take = jax.vmap(lambda rows, at: rows[at])

    def gather(x: jax.Array) -> jax.Array:
        return take(x, jnp.maximum(index, 0)).reshape(n_chunks * n_windows, window_len, *x.shape[2:])

    places = jnp.minimum(index, 0).reshape(n_chunks * n_windows, window_len)  # 0 holds a patch, -1 none
    out = attend(gather(q), gather(k), gather(v), Mask(places, places))
    return take(out.reshape(n_chunks, n_windows * window_len, *q.shape[2:]), layout.window_slot)


class VisionBlock(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), biases everywhere."""

    def __init__(
        self,
        config: VisionConfig,
        constrain: Constrain,
        lora: Lora,
        attend_segments: Callable[..., jax.Array],
        **kwargs: Any,
    ):
        self.constrain, kwargs["constrain"], self.attend_segments = constrain, constrain, attend_segments
        dim, heads = config.dim, (config.n_heads, config.head_dim)
        norm = {"axis": "vision_embed", "param_dtype": kwargs["param_dtype"]}
        self.norm1 = RMSNorm(dim, config.norm_eps, **norm)
        self.qkv = Linear(
            (dim,),
            (3, *heads),
            ("vision_embed", None, "vision_heads", "head_dim"),
            bias=True,
            lora=lora.of_vision("qkv"),
            **kwargs,
        )
        self.proj = Linear(
            heads,
            (dim,),
            ("vision_heads", "head_dim", "vision_embed"),
            bias=True,
            lora=lora.of_vision("proj"),
            **kwargs,
        )
        self.norm2 = RMSNorm(dim, config.norm_eps, **norm)
        self.mlp = GatedMLP(
            dim, config.mlp_dim, ("vision_embed", "vision_mlp"), bias=True,
            lora_of=lora.of_vision, **kwargs,
        )  # fmt: skip

    def __call__(
        self, x: jax.Array, cos: jax.Array, sin: jax.Array, layout: VisionLayout, is_full: jax.Array
    ) -> jax.Array:
        """float[C, N, dim] -> float[C, N, dim]."""
        qkv = self.constrain(self.qkv(self.norm1(x)), "rows", None, None, "vision_heads", None)
        q, k, v = (qkv[:, :, i] for i in range(3))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        full = functools.partial(attend_full, self.attend_segments)
        x = x + self.proj(jax.lax.cond(is_full, full, attend_windowed, q, k, v, layout))
        return self.constrain(x + self.mlp(self.norm2(x)), "rows", None, None)


class Merger(nnx.Module):
    """merge² adjacent patches -> one feature: RMS norm of each patch, then a GELU MLP on their join."""

    def __init__(self, config: VisionConfig, **kwargs: Any):
        self.block = config.merge**2
        joined = config.dim * self.block
        self.norm = RMSNorm(config.dim, config.norm_eps, "vision_embed", param_dtype=kwargs["param_dtype"])
        self.up = Linear((joined,), (joined,), ("vision_embed", "vision_mlp"), bias=True, **kwargs)
        self.down = Linear((joined,), (config.out_dim,), ("vision_mlp", "embed"), bias=True, **kwargs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """float[C, N, dim] -> float[C, N // merge², out_dim]."""
        joined = self.norm(x).reshape(x.shape[0], x.shape[1] // self.block, self.block * x.shape[2])
        return self.down(jax.nn.gelu(self.up(joined), approximate=False))


class VisionTower(nnx.Module):
    """Patch embedding, the blocks and the merger."""

    def __init__(
        self,
        config: VisionConfig,
        *,
        rngs: nnx.Rngs,
        dtype: Any,
        param_dtype: Any,
        remat: str,
        constrain: Constrain,
        lora: Lora,
        attend_segments: Callable[..., jax.Array],
    ):
        self.config, self.dtype, self.remat = config, dtype, remat
        kwargs = {"dtype": dtype, "param_dtype": param_dtype}
        self.patch_embed = Linear(
            (config.patch_dim,),
            (config.dim,),
            ("patch_dim", "vision_embed"),
            bias=False,
            rngs=rngs,
            constrain=constrain,
            **kwargs,
        )
        self.blocks = stack_layers(
            lambda r: VisionBlock(config, constrain, lora, attend_segments, rngs=r, **kwargs), config.n_layers, rngs
        )
        self.merger = Merger(config, rngs=rngs, constrain=constrain, **kwargs)

    def __call__(self, patches: jax.Array, layout: VisionLayout) -> jax.Array:
        """Features of C independent chunks.

        Args:
          patches: float[C, N, patch_dim], the processor's normalised, flattened patches.
          layout: VisionLayout with a leading axis C.

        Returns:
          float[C, N // merge², out_dim]: feature j is merge block j, which is the order of the image's
          tokens in the text. Features of padding blocks mean nothing.

        Raises:
          ValueError: shapes do not fit.
        """
        config = self.config
        sizes = check_axes(
            patches=(patches, "CNP"),
            segment_ids=(layout.segment_ids, "CN"),
            hw=(layout.hw, "CNA"),
            window_slot=(layout.window_slot, "CN"),
            window_index=(layout.window_index, "CWL"),
        )
        want = {"P": config.patch_dim, "A": 2, "L": config.window_len}
        if any(sizes[axis] != size for axis, size in want.items()) or sizes["N"] % config.merge**2:
            raise ValueError(
                f"patches must be [C, N, {config.patch_dim}] with N a multiple of {config.merge**2} and windows of "
                f"{config.window_len}: got {tuple(patches.shape)} and {tuple(layout.window_index.shape)}"
            )
        angles = axial_angles(layout.hw, config.head_dim, config.rope_theta)
        cos, sin = jnp.cos(angles), jnp.sin(angles)
        is_full = jnp.asarray(np.isin(np.arange(config.n_layers), config.full_layers))

        def body(x: jax.Array, block: nnx.Module, full: jax.Array) -> jax.Array:
            return block(x, cos, sin, layout, full)

        x = self.patch_embed(patches.astype(self.dtype))
        return self.merger(scan_layers(body, self.blocks, x, is_full, remat=self.remat))
