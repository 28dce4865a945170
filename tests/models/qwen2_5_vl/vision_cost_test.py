"""What a vision block costs as pictures grow: 64 keys a patch in a windowed block, every patch in a full one.

FLOPs are those of the compiled program's own cost analysis (XLA); nothing is run.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from arft_jax.models.qwen2_5_vl.packing import VisionLayout, count_windows
from arft_jax.ops.attention import attend_segments
from arft_jax.testing.tiny_model import tiny_model

CONFIG = tiny_model().config.vision
LINEAR = 2 * CONFIG.dim * (4 * CONFIG.dim + 3 * CONFIG.mlp_dim)  # FLOPs a patch outside attention
PRODUCTS = 2 * 2 * CONFIG.dim  # FLOPs a patch and key in attention: scores, and weights times values
KEYS = 64


@pytest.fixture(scope="module")
def flops():
    """(is_full, side in px) -> FLOPs of one block on one square picture."""
    plain = functools.partial(attend_segments, implementation="plain")  # of loops over blocks XLA counts one turn
    graphdef, state = nnx.split(tiny_model(attend_segments=plain).vision.blocks)
    block = nnx.merge(graphdef, jax.tree.map(lambda a: a[0], state))

    def run(is_full, side_px):
        side = side_px // CONFIG.patch_px
        n, n_windows = side**2, count_windows([(1, side, side)], CONFIG.window_px, CONFIG.patch_px)
        shapes = [(1, n), (1, n, 2), (1, n_windows, CONFIG.window_len), (1, n)]
        layout = VisionLayout(*(jax.ShapeDtypeStruct(shape, jnp.int32) for shape in shapes))
        x = jax.ShapeDtypeStruct((1, n, CONFIG.dim), jnp.float32)
        angles = jax.ShapeDtypeStruct((1, n, CONFIG.head_dim // 2), jnp.float32)
        compute = jax.jit(lambda x, cos, sin, layout: block(x, cos, sin, layout, jnp.asarray(is_full)))
        return compute.lower(x, angles, angles, layout).compile().cost_analysis()["flops"]

    return run


def test_a_windowed_block_costs_in_proportion_to_the_pixels(flops):
    sides = np.array([448, 896, 1344, 1792])
    a_patch = np.array([flops(False, int(side)) / (side // 14) ** 2 for side in sides])
    print("FLOPs a patch of a windowed block at", dict(zip(sides.tolist(), a_patch.tolist(), strict=True)))
    assert np.all(np.abs(a_patch / a_patch[0] - 1) < 0.02)
    assert LINEAR + PRODUCTS * KEYS <= a_patch[0] < 1.25 * (LINEAR + PRODUCTS * KEYS)  # 64 keys, and nothing else big


def test_a_full_block_costs_more_a_patch_the_larger_the_picture(flops):
    for side in (224, 448):
        n = (side // 14) ** 2
        a_patch = flops(True, side) / n
        assert LINEAR + PRODUCTS * n <= a_patch < 1.25 * (LINEAR + PRODUCTS * n)
    assert flops(True, 448) > 2 * 4 * flops(True, 224)  # four times the pixels, more than eight times the work
    assert flops(True, 448) > 3 * flops(False, 448)
