"""A policy that says what a test wants: the sampler's four methods of a model, without a model.

The engine, its slots, forks, pauses and tools are the real ones; only the next token is looked up in a script.
The KV cache holds no keys and values here: ``k`` holds the tokens of a row, ``v`` is 1 at columns that decoding
read. So a row's place in its script is the number of tokens that it has sampled, whatever observations of
whatever length stand between them.
"""

import types
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from arft_jax.models.cache import KVCache

SURE = 60.0  # logit of the scripted token, the others' being 0: p = 1 within float32

# what init_cache reads of a TextConfig
CACHE_SIZES = types.SimpleNamespace(n_layers=1, n_kv_heads=1, head_dim=1)


class ScriptedPolicy(nnx.Module):
    """Rows whose prompt is ``prompts[i]`` sample ``scripts[i]``; D = 1.

    The arrays are data: other scripts of the same shape need no other compiled program.

    Args:
      prompts: int32[n, S], -1 behind the end.
      scripts: int32[n, M]; behind the end the last column goes on for ever.
      vocab_size: V.
    """

    def __init__(self, prompts: np.ndarray, scripts: np.ndarray, vocab_size: int):
        self.prompts = nnx.Variable(jnp.asarray(prompts, jnp.int32))
        self.scripts = nnx.Variable(jnp.asarray(scripts, jnp.int32))
        self.vocab_size = vocab_size

    def encode(self, patches: jax.Array, layout: Any) -> jax.Array:
        """float32[C, N // 4, 1] of zeros: this policy is blind."""
        return jnp.zeros((patches.shape[0], patches.shape[1] // 4, 1), jnp.float32)

    def embed(self, tokens: jax.Array, features: jax.Array, feature_index: jax.Array) -> jax.Array:
        """float32[B, T, 1], the token ids themselves."""
        return tokens[..., None].astype(jnp.float32)

    def hidden_cached(
        self,
        embeds: jax.Array,
        positions: jax.Array,
        cache: KVCache,
        rows: jax.Array | None,
        cols: jax.Array,
        columns: int | None = None,
        layers: None = None,
    ) -> tuple[jax.Array, KVCache]:
        """float32[R, T, 1], the id of the token to come; see the model's method of that name."""
        slots = jnp.arange(embeds.shape[0], dtype=jnp.int32) if rows is None else rows
        decoded = jnp.full(cols.shape, rows is None, jnp.float32)

        def put(leaf, values):
            return leaf.at[0, slots[:, None], 0, cols, 0].set(values.astype(leaf.dtype), mode="drop")

        cache = KVCache(put(cache.k, embeds[..., 0]), put(cache.v, decoded))
        seen = cache.k[0, slots, 0, :, 0].astype(jnp.int32)  # [R, S]
        reads = jnp.cumsum(cache.v[0, slots, 0, :, 0], axis=1).astype(jnp.int32)
        place = jnp.take_along_axis(reads, jnp.minimum(cols, seen.shape[1] - 1), axis=1) - 1
        prompts, scripts = self.prompts[...], self.scripts[...]
        mine = ((prompts[None] < 0) | (prompts[None] == seen[:, None])).all(axis=-1)  # [R, n]
        script = scripts[jnp.argmax(mine, axis=1)]
        token = jnp.take_along_axis(script, jnp.clip(place, 0, scripts.shape[1] - 1), axis=1)
        token = jnp.where(mine.any(axis=1)[:, None], token, scripts[:1, -1:])  # a prompt of no script: the end
        return token[..., None].astype(jnp.float32), cache

    def logits(self, hidden: jax.Array) -> jax.Array:
        """float32[..., V], one token far above all others."""
        ids = jnp.arange(self.vocab_size, dtype=jnp.int32).reshape((1,) * (hidden.ndim - 1) + (-1,))
        return jnp.where(ids == hidden.astype(jnp.int32), jnp.float32(SURE), jnp.float32(0.0))


def scripted(
    prompts: Sequence[np.ndarray],
    scripts: Sequence[Sequence[int]],
    *,
    vocab_size: int,
    end: int,
    n: int,
    prompt_len: int,
    script_len: int,
) -> tuple[nnx.GraphDef, nnx.State]:
    """(graphdef, params) of a policy, padded to one shape so that programs can be shared.

    Args:
      prompts: tokens of each prompt, no one a beginning of another.
      scripts: what rows of that prompt sample, all their turns one after the other.
      vocab_size: V.
      end: token said for ever behind a script.
      n: scripts that fit.
      prompt_len: S, the cache's length.
      script_len: M, more than the longest script.

    Raises:
      ValueError: scripts that do not fit.
    """
    if len(prompts) != len(scripts) or len(prompts) > n:
        raise ValueError(f"there must be one script a prompt, {n} at most: got {len(prompts)} and {len(scripts)}")
    if max(map(len, scripts)) >= script_len or max(map(len, prompts)) > prompt_len:
        raise ValueError(f"prompts and scripts must fit {prompt_len} and {script_len - 1} tokens")
    padded = np.full((n, prompt_len), -2, np.int32)  # no token: matches nothing
    said = np.full((n, script_len), end, np.int32)
    for i, (prompt, script) in enumerate(zip(prompts, scripts, strict=True)):
        padded[i] = -1
        padded[i, : len(prompt)] = prompt
        said[i, : len(script)] = script
    return nnx.split(ScriptedPolicy(padded, said, vocab_size))
