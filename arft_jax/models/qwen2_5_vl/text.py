"""The text decoder: pre-norm blocks of grouped-query attention with M-RoPE and SwiGLU.

Qwen2.5 (arXiv 2412.15115, section 2): biases on query, key and value only. One scan over stacked layers,
either over whole sequences (training) or through the key/value cache (sampling).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from arft_jax.models.cache import KVCache, read, write
from arft_jax.models.layers import (
    Constrain,
    GatedMLP,
    Linear,
    RMSNorm,
    scan_layers,
    stack_layers,
    truncated_normal,
    unstack_layers,
)
from arft_jax.models.lora import Lora
from arft_jax.models.qwen2_5_vl.config import TextConfig
from arft_jax.ops.cached_attention import attend_cached
from arft_jax.ops.linear import product
from arft_jax.ops.rotary import mrope_angles, rotate
from arft_jax.ops.shapes import check_axes


class DecoderLayer(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: TextConfig, constrain: Constrain, lora: Lora, **kwargs: Any):
        self.constrain, kwargs["constrain"] = constrain, constrain
        dim, n, k, h = config.dim, config.n_heads, config.n_kv_heads, config.head_dim
        kv_axes, bias = ("embed", "kv_heads", "head_dim"), config.qkv_bias
        self.norm1 = RMSNorm(dim, config.norm_eps, "embed", param_dtype=kwargs["param_dtype"])
        self.q = Linear((dim,), (n, h), ("embed", "heads", "head_dim"), bias=bias, lora=lora.of_text("q"), **kwargs)
        self.k = Linear((dim,), (k, h), kv_axes, bias=bias, lora=lora.of_text("k"), **kwargs)
        self.v = Linear((dim,), (k, h), kv_axes, bias=bias, lora=lora.of_text("v"), **kwargs)
        self.o = Linear((n, h), (dim,), ("heads", "head_dim", "embed"), bias=False, lora=lora.of_text("o"), **kwargs)
        self.norm2 = RMSNorm(dim, config.norm_eps, "embed", param_dtype=kwargs["param_dtype"])
        self.mlp = GatedMLP(dim, config.mlp_dim, ("embed", "mlp"), bias=False, lora_of=lora.of_text, **kwargs)

    def project(self, x: jax.Array, cos: jax.Array, sin: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """float[B, T, D] -> rotated queries [B, T, N, H], rotated keys and values [B, T, K, H]."""
        y = self.norm1(x)
        q, k, v = rotate(self.q(y), cos, sin), rotate(self.k(y), cos, sin), self.v(y)
        q = self.constrain(q, "rows", None, "heads", None)
        k, v = (self.constrain(a, "rows", None, "kv_heads", None) for a in (k, v))
        return q, k, v

    def finish(self, x: jax.Array, attended: jax.Array) -> jax.Array:
        """Adds the attention's output and the MLP; float[B, T, D] -> float[B, T, D]."""
        x = x + self.o(self.constrain(attended, "rows", None, "heads", None))
        return self.constrain(x + self.mlp(self.norm2(x)), "rows", None, None)


class TextDecoder(nnx.Module):
    """Embedding, layers, final norm and unembedding."""

    def __init__(
        self,
        config: TextConfig,
        *,
        rngs: nnx.Rngs,
        dtype: Any,
        param_dtype: Any,
        remat: str,
        constrain: Constrain,
        lora: Lora,
        attend_causal: Callable[..., jax.Array],
    ):
        self.config, self.dtype, self.remat, self.constrain = config, dtype, remat, constrain
        self.attend_causal = attend_causal
        kwargs = {"dtype": dtype, "param_dtype": param_dtype}
        # Tied: the final norm gives unit components, so a row of deviation 1/√D gives logits of unit
        # scale; the first norm undoes the small scale on the way in. Untied: the usual 0.02.
        std = config.dim**-0.5 if config.tied else 0.02
        table = truncated_normal(rngs, (config.vocab_size, config.dim), std, param_dtype)
        self.embedding = nnx.Param(table, axes=("vocab", "embed"))
        self.layers = stack_layers(
            lambda r: DecoderLayer(config, constrain, lora, rngs=r, **kwargs), config.n_layers, rngs
        )
        self.norm = RMSNorm(config.dim, config.norm_eps, "embed", param_dtype=param_dtype)
        if config.tied:
            self.unembedding = None
        else:
            kernel = truncated_normal(rngs, (config.dim, config.vocab_size), config.dim**-0.5, param_dtype)
            self.unembedding = nnx.Param(kernel, axes=("embed", "vocab"))

    def _rotary(self, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
        config = self.config
        angles = mrope_angles(positions, config.head_dim, config.rope_theta, config.mrope_section)
        return jnp.cos(angles), jnp.sin(angles)

    def embed(self, tokens: jax.Array) -> jax.Array:
        """int32[B, T] -> float[B, T, D]."""
        return self.constrain(self.embedding[...][tokens].astype(self.dtype), "rows", None, None)

    def hidden(
        self, embeds: jax.Array, positions: jax.Array, segment_ids: jax.Array, prefix_ids: jax.Array | None = None
    ) -> jax.Array:
        """Whole sequences; see the model's ``hidden``."""
        check_axes(embeds=(embeds, "BTD"), positions=(positions, "BAT"), segment_ids=(segment_ids, "BT"))
        cos, sin = self._rotary(positions)
        ids = (segment_ids,) if prefix_ids is None else (segment_ids, prefix_ids)

        def body(x: jax.Array, layer: nnx.Module, _: None) -> jax.Array:
            q, k, v = layer.project(x, cos, sin)
            return layer.finish(x, self.attend_causal(q, k, v, *ids))

        return self.norm(scan_layers(body, self.layers, embeds.astype(self.dtype), remat=self.remat))

    def hidden_cached(
        self,
        embeds: jax.Array,
        positions: jax.Array,
        cache: KVCache,
        rows: jax.Array | None,
        cols: jax.Array,
        columns: int | None = None,
        layers: Sequence[nnx.Module] | None = None,
    ) -> tuple[jax.Array, KVCache]:
        """The next tokens of cached sequences; see the model's ``hidden_cached``.

        Attention here is XLA's own, over chunks of queries, on every device. Rows stand at different offsets, which
        splash's causal mask (one offset for all rows) and cuDNN's do not express short of a [T, S] mask, and little is
        left to gain. For 7B on a v5e chip (one row, 28 heads on 4, 256 queries against 8192 columns) the compiler
        reports 30 GFLOP a layer beside 119 of the linear maps, and 8 MiB of temporaries where all scores at once
        take 224: a chunk's scores stay in fast memory. A kernel could at best skip the columns not seen yet, on
        average half of the 30 GFLOP: a tenth of the layer.
        """
        check_axes(embeds=(embeds, "RTD"), positions=(positions, "RAT"), cols=(cols, "RT"))
        n_rows, columns = embeds.shape[0], cache.length if columns is None else columns
        if rows is None and n_rows != cache.n_slots:
            raise ValueError(f"without rows there must be one row a slot: got R={n_rows}, n_slots={cache.n_slots}")
        if rows is not None:
            check_axes(embeds=(embeds, "RTD"), rows=(rows, "R"))
        if not 0 < columns <= cache.length:
            raise ValueError(f"columns must lie between 1 and S={cache.length}: got {columns}")
        cos, sin = self._rotary(positions)
        slots = jnp.arange(n_rows, dtype=cols.dtype) if rows is None else rows

        def body(carry: tuple[jax.Array, KVCache], layer: nnx.Module, index: Any) -> tuple[jax.Array, KVCache]:
            x, cache = carry
            q, k, v = layer.project(x, cos, sin)
            cache = write(cache, index, slots, cols, k, v)
            keys, values = read(cache, index, rows, columns, q.dtype)
            return layer.finish(x, attend_cached(q, keys, values, cols)), cache

        carry = (embeds.astype(self.dtype), cache)
        if cache.is_unstacked:
            for index, layer in enumerate(self.unstacked_layers() if layers is None else layers):
                carry = body(carry, layer, index)
            x, cache = carry
        else:
            x, cache = scan_layers(body, self.layers, carry, jnp.arange(self.config.n_layers))
        return self.norm(x), cache

    def unstacked_layers(self, states: Sequence[nnx.State] | None = None) -> list[nnx.Module]:
        """Each layer by itself, in order; see the model's ``unstacked_layers``."""
        return unstack_layers(self.layers, self.config.n_layers, states)

    def unembedding_kernel(self) -> jax.Array:
        """float[D, V] in the type of the parameters; of a tied model the embedding."""
        return self.embedding[...].T if self.unembedding is None else self.unembedding[...]

    def logits(self, hidden: jax.Array, kernel: jax.Array | None = None) -> jax.Array:
        """See the model's ``logits``."""
        hidden = hidden.astype(self.dtype)
        if kernel is not None:
            return product(hidden, kernel, 1, jnp.float32)
        logits = product(hidden, self.unembedding_kernel(), 1, jnp.float32)
        return self.constrain(logits, "rows", *[None] * (logits.ndim - 2), "vocab")
