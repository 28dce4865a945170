"""Qwen2.5-VL: vision tower and text decoder behind five methods, one for each compiled step.

Qwen2.5-VL (arXiv 2502.13923). Pure: no method changes the module; split it once into (graphdef, params).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from arft_jax.models.cache import KVCache
from arft_jax.models.layers import Constrain, unconstrained
from arft_jax.models.lora import NO_LORA, Lora
from arft_jax.models.qwen2_5_vl.config import ModelConfig
from arft_jax.models.qwen2_5_vl.packing import VisionLayout
from arft_jax.models.qwen2_5_vl.text import TextDecoder
from arft_jax.models.qwen2_5_vl.vision import VisionTower
from arft_jax.ops.attention import attend_causal, attend_segments
from arft_jax.ops.shapes import check_axes


class Qwen2_5_VL(nnx.Module):
    """The model at any size.

    Args:
      config: all sizes; without a vision tower the module is a text model.
      rngs: stream ``params`` draws the initial weights.
      dtype: compute type; norms, softmax, rotary and logits are float32 always.
      param_dtype: type in which parameters are kept.
      remat: what each layer computes again in the backward pass, a word of ``layers.scan_layers``.
      lora: adapters beside the linear maps; their draws take the stream ``lora``.
      attend_causal: attention of the decoder over whole sequences, as ``ops.attention.attend_causal``.
      attend_segments: full attention of the vision tower, as ``ops.attention.attend_segments``.
      constrain: places activations on a mesh, given their logical axes.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        rngs: nnx.Rngs,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        remat: str = "none",
        constrain: Constrain = unconstrained,
        lora: Lora = NO_LORA,
        attend_causal: Callable[..., jax.Array] = attend_causal,
        attend_segments: Callable[..., jax.Array] = attend_segments,
    ):
        self.config, self.constrain = config, constrain
        kwargs = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype, "remat": remat}
        kwargs |= {"constrain": constrain, "lora": lora}
        tower = config.vision  # one assignment: flax keeps a None and a module apart
        self.vision = tower and VisionTower(tower, attend_segments=attend_segments, **kwargs)
        self.text = TextDecoder(config.text, attend_causal=attend_causal, **kwargs)

    def encode(self, patches: jax.Array, layout: VisionLayout) -> jax.Array:
        """Features of C independent chunks of packed images.

        Args:
          patches: float[C, N, patch_dim].
          layout: VisionLayout with a leading axis C.

        Returns:
          float[C, N // merge², D], feature j of a chunk = merge block j = image token j. A text model, whose chunks
          are empty, gives zeros.
        """
        if self.vision is None:
            n_chunks, n_patches = patches.shape[:2]
            return jnp.zeros((n_chunks, n_patches // 4, self.config.text.dim), self.text.dtype)
        return self.vision(patches, layout)

    def embed(self, tokens: jax.Array, features: jax.Array, feature_index: jax.Array) -> jax.Array:
        """Token embeddings with features put in place.

        With feature_index [-1, 4, -1] the middle token is features[4]; the others are ordinary.

        Args:
          tokens: int32[B, T].
          features: float[F, D], flat over chunks; F may be 0.
          feature_index: int32[B, T], -1 at ordinary tokens.

        Returns:
          float[B, T, D].
        """
        check_axes(tokens=(tokens, "BT"), feature_index=(feature_index, "BT"), features=(features, "FD"))
        embeds = self.text.embed(tokens)
        if features.shape[0] == 0:
            return embeds
        placed = features[jnp.maximum(feature_index, 0)].astype(embeds.dtype)
        return self.constrain(jnp.where((feature_index >= 0)[:, :, None], placed, embeds), "rows", None, None)

    def hidden(
        self, embeds: jax.Array, positions: jax.Array, segment_ids: jax.Array, prefix_ids: jax.Array | None = None
    ) -> jax.Array:
        """Whole sequences at once, for training and scoring.

        Args:
          embeds: float[B, T, D].
          positions: int32[B, 3, T], M-RoPE.
          segment_ids: int32[B, T]; a token attends to itself and to earlier tokens of its own segment;
            -1 is padding, which nothing attends to.
          prefix_ids: int32[B, T], a segment in front of its own that a token attends to as well, -1: none. So the
            prompt of a group stands once in a row, and its completions behind it. None: no token has one.

        Returns:
          float[B, T, D] after the final norm.
        """
        return self.text.hidden(embeds, positions, segment_ids, prefix_ids)

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
        """The next T tokens of R cached sequences: chunked prefill and decode alike.

        Token t of row r is written at column cols[r, t] of slot rows[r] and attends to the slot's columns
        up to its own: with cols [[5, 6]] the second token sees columns 0 .. 6.

        Args:
          embeds: float[R, T, D].
          positions: int32[R, 3, T], M-RoPE.
          cache: donated by the caller's jit, it is updated in place.
          rows: int32[R], the slot of each row, distinct; n_slots or more = padding row, nothing is
            written. None: R == n_slots, row r is slot r (no gather).
          cols: int32[R, T]; S or more = padding token, nothing is written and its output means nothing.
          columns: only the first so many are read, which must hold every column that is written; None: all S.
          layers: what :meth:`unstacked_layers` gave, for an unstacked cache; None: they are unstacked here.

        Returns:
          float[R, T, D] after the final norm, and the cache.
        """
        return self.text.hidden_cached(embeds, positions, cache, rows, cols, columns, layers)

    def unstacked_layers(self, states: Sequence[nnx.State] | None = None) -> list[nnx.Module]:
        """The decoder's layers one by one, for many calls of :meth:`hidden_cached` to share.

        Args:
          states: parameters of each, in order; None: copied out of the stack.
        """
        return self.text.unstacked_layers(states)

    def unembedding_kernel(self) -> jax.Array:
        """float[D, V] in the type of the parameters, with the logical axes (embed, vocab)."""
        return self.text.unembedding_kernel()

    def logits(self, hidden: jax.Array, kernel: jax.Array | None = None) -> jax.Array:
        """float[..., D] -> float32[..., V].

        Args:
          hidden: float[..., D].
          kernel: what :meth:`unembedding_kernel` gave, gathered by the caller, who also says where the logits lie;
            None: the model's own.
        """
        return self.text.logits(hidden, kernel)
