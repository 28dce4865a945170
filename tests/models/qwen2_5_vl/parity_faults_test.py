"""The faults known from other ports, planted one by one: the comparison of parity_test.py fails for each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from arft_jax.models.qwen2_5_vl import text, vision
from arft_jax.models.qwen2_5_vl.positions import image_positions, text_positions
from arft_jax.ops.rotary import inverse_frequencies
from arft_jax.testing import parity

pytestmark = [pytest.mark.torch, pytest.mark.parametrize("pair", [True], indirect=True, ids=["tied"])]
FAULTS = ("logits with a fault planted, float32", "max |theirs|", "max difference", "tolerance")
AT_LEAST = 10  # tolerances
LARGE = parity.Case("1 image of 644 px", ((parity.EN, (1, 46, 46), parity.ZH),))  # the error grows with the angle


@pytest.fixture
def check(pair, expected, parity_table):
    """Compares under the fault that is planted by now; the comparison must fail, and by far."""

    def run(fault, case=parity.TWO_IMAGES, **inputs_changes):
        inputs = parity.make_inputs(parity.make_batch(case, pair.ours.config), pair.ours.config, **inputs_changes)
        graphdef, params = nnx.split(pair.ours)
        fresh = jax.jit(lambda p, x: parity.our_logits(nnx.merge(graphdef, p), x))  # traced with the fault in place
        theirs = expected(case)["logits"]
        gap, limit = np.abs(np.asarray(fresh(params, inputs))[inputs.valid] - theirs).max(), parity.tolerance(theirs)
        parity_table.add(FAULTS, fault, np.abs(theirs).max(), gap, limit)
        assert gap > AT_LEAST * limit

    return run


def test_without_a_fault_the_comparison_finds_none(check):
    with pytest.raises(AssertionError):
        check("none planted")


def test_a_band_mask_in_place_of_windows_is_seen(monkeypatch, check):
    def banded(q, k, v, layout):
        at = jnp.arange(q.shape[1])
        near = jnp.abs(at[:, None] - at[None, :]) < layout.window_index.shape[2] // 2
        ids = layout.segment_ids
        same = (ids[:, :, None] == ids[:, None, :]) & (ids >= 0)[:, None, :]  # images apart, as with windows
        seen = near[None, None] & same[:, None]
        scores = jnp.einsum("cthd,cshd->chts", q, k) * q.shape[3] ** -0.5
        weights = jax.nn.softmax(jnp.where(seen, scores, -1e30), axis=-1)
        return jnp.einsum("chts,cshd->cthd", weights, v)

    monkeypatch.setattr(vision, "attend_windowed", banded)
    check("band mask in place of windows")


def test_vision_rotary_angles_in_bfloat16_are_seen(monkeypatch, check):
    exact = vision.axial_angles
    monkeypatch.setattr(vision, "axial_angles", lambda *a: exact(*a).astype(jnp.bfloat16).astype(jnp.float32))
    check("vision rotary angles in bfloat16", LARGE, sizes=parity.Sizes(1, 640, 0, 2116, 36))


def test_vision_rotary_frequencies_with_the_wrong_step_are_seen(monkeypatch, check):
    def angles(hw, head_dim, theta):  # θ^(-2i / H) in place of θ^(-2i / (H / 2)), i < H / 4
        frequency = inverse_frequencies(head_dim, theta)[: head_dim // 4]
        return (hw.astype(jnp.float32)[..., None] * frequency[None, None, None, :]).reshape(*hw.shape[:2], -1)

    monkeypatch.setattr(vision, "axial_angles", angles)
    check("vision rotary frequencies with the wrong step")


def test_text_rotary_frequencies_with_the_wrong_step_are_seen(monkeypatch, check):
    exact = text.mrope_angles
    monkeypatch.setattr(text, "mrope_angles", lambda p, h, theta, s: exact(p, h, theta**0.5, s))  # θ^(-i / H)
    check("text rotary frequencies with the wrong step", parity.CASES[0])


def test_text_rotary_angles_in_bfloat16_are_seen(monkeypatch, check):
    exact = text.mrope_angles
    monkeypatch.setattr(text, "mrope_angles", lambda *a: exact(*a).astype(jnp.bfloat16).astype(jnp.float32))
    check("text rotary angles in bfloat16", parity.CASES[0])


def test_text_positions_for_the_second_image_are_seen(monkeypatch, check):
    def positions(tokens, grids, image_token_id, merge):
        first = int(np.argmax(tokens == image_token_id))
        before, at = text_positions(0, first)
        image, at = image_positions(at, grids[0], merge)
        after, at = text_positions(at, len(tokens) - first - image.shape[1])
        return np.concatenate([before, image, after], axis=1), at

    monkeypatch.setattr(parity, "mrope_positions", positions)
    check("text positions for the second image")


def test_images_that_leak_into_each_other_are_seen(monkeypatch, check):
    exact = vision.attend_full

    def leaking(attend, q, k, v, layout):  # one segment for all images, padding apart
        return exact(attend, q, k, v, layout._replace(segment_ids=jnp.minimum(layout.segment_ids, 0)))

    monkeypatch.setattr(vision, "attend_full", leaking)
    check("packed images leak in full-attention layers")


def test_packed_rows_that_leak_into_each_other_are_seen(check):
    check("packed rows leak in the decoder", parity.CASES[-1], segment=lambda row: 0)
