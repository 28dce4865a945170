"""The vision tower: packed == separate, padded == unpadded, no image sees another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arft_jax.models.qwen2_5_vl.packing import VisionLayout, pack_layout
from arft_jax.testing.tiny_model import tiny_model
from arft_jax.words import REMAT_POLICIES

TOLERANCE = 2e-5  # float32, sums over other lengths
GRIDS = [(1, 10, 14), (1, 6, 22)]
SIZES = [140, 132]


@pytest.fixture(scope="module")
def encode():
    model = tiny_model()

    def run(images, grids, n_patches, n_windows):
        patches = np.zeros((n_patches, 1176), np.float32)
        joined = np.concatenate(images)
        patches[: len(joined)] = joined
        layout = pack_layout(grids, n_patches, n_windows, 112, 14, 2)
        layout = VisionLayout(*(jnp.asarray(x)[None] for x in layout))
        return np.asarray(jax.jit(model.encode)(jnp.asarray(patches)[None], layout)[0])

    return run


@pytest.fixture(scope="module")
def images():
    return [np.random.default_rng(i).normal(size=(n, 1176)).astype(np.float32) for i, n in enumerate(SIZES)]


def test_packed_images_equal_separate_images(encode, images):
    packed = encode(images, GRIDS, 272, 7)
    alone = [encode([image], [grid], n, 4) for image, grid, n in zip(images, GRIDS, SIZES, strict=True)]
    np.testing.assert_allclose(packed, np.concatenate(alone), atol=TOLERANCE)


def test_padding_the_bucket_does_not_change_features(encode, images):
    exact = encode(images, GRIDS, 272, 7)
    padded = encode(images, GRIDS, 320, 12)
    np.testing.assert_allclose(padded[:68], exact, atol=TOLERANCE)
    assert np.isfinite(padded).all()


def test_an_image_does_not_leak_into_its_neighbour(encode, images):
    other = encode([images[0], images[1] + 1.0], GRIDS, 272, 7)
    packed = encode(images, GRIDS, 272, 7)
    np.testing.assert_array_equal(other[:35], packed[:35])
    assert np.abs(other[35:] - packed[35:]).max() > 0.1


def test_chunks_are_independent(images):
    model = tiny_model()
    layouts = [pack_layout([grid], 140, 4, 112, 14, 2) for grid in GRIDS]
    patches = np.stack([images[0], np.pad(images[1], ((0, 8), (0, 0)))])
    stacked = VisionLayout(*(jnp.asarray(np.stack(x)) for x in zip(*layouts, strict=True)))
    both = model.encode(jnp.asarray(patches), stacked)
    for i in range(2):
        one = model.encode(jnp.asarray(patches[i : i + 1]), VisionLayout(*(x[i : i + 1] for x in stacked)))
        np.testing.assert_allclose(both[i], one[0], atol=TOLERANCE)


def test_rematerialised_gradient_equals_the_plain_one(images):
    layout = VisionLayout(*(jnp.asarray(x)[None] for x in pack_layout([GRIDS[0]], 140, 4, 112, 14, 2)))
    grads = []
    for remat in REMAT_POLICIES:
        model = tiny_model(remat=remat)
        grads.append(jax.grad(lambda p, m=model: jnp.sum(m.encode(p, layout) ** 2))(jnp.asarray(images[0])[None]))
    assert np.abs(grads[0]).max() > 1e-3
    for grad in grads[1:]:
        np.testing.assert_allclose(grad, grads[0], atol=1e-4 * float(np.abs(grads[0]).max()))


def test_a_layout_of_another_size_is_refused(images):
    model = tiny_model()
    layout = VisionLayout(*(jnp.asarray(x)[None] for x in pack_layout([GRIDS[0]], 144, 4, 112, 14, 2)))
    with pytest.raises(ValueError, match="axis N of segment_ids must be 140"):
        model.encode(jnp.asarray(images[0])[None], layout)
    with pytest.raises(ValueError, match=r"\[C, N, 1176\]"):
        model.encode(jnp.zeros((1, 144, 588)), layout)
