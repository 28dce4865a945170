"""Rotary position embedding: multi-axis angles of the text decoder and axial angles of the vision tower.

RoFormer (arXiv 2104.09864, eq. 34) in the half-split layout; M-RoPE after Qwen2-VL (arXiv 2409.12191,
section 2.1). Angles, cosines and the rotation are float32 whatever the compute type: at position 896 a
bfloat16 angle is wrong by whole radians.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from arft_jax.ops.shapes import check_axes


def inverse_frequencies(dim: int, theta: float) -> np.ndarray:
    """ω_i = θ^(-2i / dim), i = 0 .. dim/2 - 1.

    >>> inverse_frequencies(4, 100.0).tolist()
    [1.0, 0.10000000149011612]

    Returns:
      float32[dim // 2], radians a position.
    """
    return (float(theta) ** -(np.arange(0, dim, 2, dtype=np.float64) / dim)).astype(np.float32)


def mrope_angles(positions: jax.Array, head_dim: int, theta: float, section: Sequence[int]) -> jax.Array:
    """Angles of the decoder: frequency i turns with the time, height or width position, by section.

    With section (1, 1, 2) and head_dim 8, frequency 0 reads the time row of ``positions``, frequency 1
    the height row and frequencies 2 and 3 the width row. Text has three equal rows: plain rotary.

    Args:
      positions: int32[B, 3, T].
      head_dim: H.
      theta: base.
      section: frequencies a row, summing to H / 2.

    Returns:
      float32[B, T, H // 2], radians.
    """
    check_axes(positions=(positions, "BAT"))
    row = np.repeat(np.arange(3), section)  # frequency -> row of positions
    moved = jnp.moveaxis(positions, 1, 2)[:, :, row].astype(jnp.float32)
    return moved * inverse_frequencies(head_dim, theta)[None, None, :]


def axial_angles(hw: jax.Array, head_dim: int, theta: float) -> jax.Array:
    """Angles of the vision tower: half of the frequencies turn with the row, half with the column.

    Args:
      hw: int32[C, N, 2], patch row and column.
      head_dim: H, a multiple of 4.
      theta: base.

    Returns:
      float32[C, N, H // 2], radians.
    """
    check_axes(hw=(hw, "CNA"))
    frequency = inverse_frequencies(head_dim // 2, theta)
    angles = hw.astype(jnp.float32)[..., None] * frequency[None, None, None, :]
    return angles.reshape(*hw.shape[:2], head_dim // 2)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Turns each pair (x_i, x_{i + H/2}) by its angle.

    Args:
      x: float[B, T, N, H].
      cos, sin: float32[B, T, H // 2].

    Returns:
      float[B, T, N, H] in x's type.
    """
    low, high = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = cos[:, :, None, :], sin[:, :, None, :]
    return jnp.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1).astype(x.dtype)
