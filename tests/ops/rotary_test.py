"""Rotary embedding against a complex-number oracle."""

import jax.numpy as jnp
import numpy as np

from arft_jax.ops.rotary import axial_angles, inverse_frequencies, mrope_angles, rotate


def test_rotation_is_a_complex_product_of_the_half_split_pairs():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, 3, 8)).astype(np.float32)
    angles = rng.uniform(-9, 9, size=(2, 5, 4)).astype(np.float32)
    turned = (x[..., :4] + 1j * x[..., 4:]) * np.exp(1j * angles)[:, :, None, :]
    ours = rotate(jnp.asarray(x), jnp.cos(angles), jnp.sin(angles))
    np.testing.assert_allclose(ours, np.concatenate([turned.real, turned.imag], -1), atol=1e-5)  # float32


def test_each_section_reads_its_own_row_of_positions():
    positions = jnp.asarray([[[10], [20], [30]]], jnp.int32)
    angles = mrope_angles(positions, 8, 10_000.0, (1, 1, 2))[0, 0]
    frequency = inverse_frequencies(8, 10_000.0)  # 1, .1, .01, .001
    np.testing.assert_allclose(angles, np.array([10, 20, 30, 30], np.float32) * frequency, rtol=1e-6)


def test_axial_angles_put_rows_before_columns():
    angles = axial_angles(jnp.asarray([[[3, 5]]], jnp.int32), 8, 10_000.0)[0, 0]
    np.testing.assert_allclose(angles, [3, 0.03, 5, 0.05], rtol=1e-6)  # frequencies of dim 4: 1, .01


def test_angles_stay_float32_under_a_bfloat16_model():
    x = jnp.ones((1, 1, 1, 8), jnp.bfloat16)
    angles = mrope_angles(jnp.full((1, 3, 1), 895, jnp.int32), 8, 10_000.0, (1, 1, 2))
    assert angles.dtype == jnp.float32 and angles[0, 0, 0] == 895.0  # bfloat16 would say 896
    assert rotate(x, jnp.cos(angles), jnp.sin(angles)).dtype == jnp.bfloat16
