"""The patch store: same patches, bounded bytes."""

import concurrent.futures

import numpy as np

from arft_jax.data.images import ImageProcessor
from arft_jax.data.patches import PatchStore
from arft_jax.testing.tiny_rollout import tiny_image

ITEM_BYTES = 16 * 1176 * 4  # a 56 x 56 image: 16 patches of float32


class Counting:
    """An image processor that counts its calls."""

    def __init__(self):
        self.inner, self.calls = ImageProcessor(28 * 28, 56 * 56), 0

    def __call__(self, pixels):
        self.calls += 1
        return self.inner(pixels)


def test_patches_are_the_processors_and_made_once():
    processor = Counting()
    store = PatchStore(processor)
    image = tiny_image(1, 40, 60)
    want, grid = processor.inner(image.pixels)
    for _ in range(3):
        got = store.get(image)
        np.testing.assert_array_equal(got[0], want)
        assert got[1] == grid
    assert processor.calls == 1
    again = tiny_image(1, 40, 60, name="another name")
    assert store.get(again)[0] is store.get(image)[0] and processor.calls == 1  # by content


def test_bytes_are_bounded_and_the_least_recently_used_goes_first():
    processor = Counting()
    store = PatchStore(processor, max_bytes=2 * ITEM_BYTES)
    a, b, c = (tiny_image(i, 56, 56) for i in range(3))
    store.get(a), store.get(b), store.get(a), store.get(c)  # b is the oldest
    assert store.n_bytes <= store.max_bytes and store.n_images == 2
    store.get(a), store.get(c)
    assert processor.calls == 3
    store.get(b)
    assert processor.calls == 4 and store.n_bytes == 2 * ITEM_BYTES


def test_an_image_larger_than_the_bound_is_still_served():
    store = PatchStore(Counting(), max_bytes=10)
    for i in range(3):
        assert store.get(tiny_image(i, 56, 56))[0].nbytes == ITEM_BYTES
    assert store.n_images == 1 and store.n_bytes == ITEM_BYTES


def test_threads_may_share_a_store():
    store = PatchStore(ImageProcessor(28 * 28, 56 * 56), max_bytes=3 * ITEM_BYTES)
    images = [tiny_image(i, 56, 56) for i in range(6)]
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        done = list(threads.map(store.get, images * 20))
    for image, (got, _) in zip(images * 20, done, strict=True):
        np.testing.assert_array_equal(got, store.processor(image.pixels)[0])
    assert store.n_bytes == store.n_images * ITEM_BYTES <= store.max_bytes
