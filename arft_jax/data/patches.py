"""Patches of images, made just before use and kept a while by content hash."""

import threading
from collections import OrderedDict

import numpy as np

from arft_jax.data.images import ImageProcessor
from arft_jax.trajectory import Image


class PatchStore:
    """A bounded cache over an image processor: the least recently used image goes first.

    Args:
      processor: pixels -> (patches, grid).
      max_bytes: of patches kept.
    """

    def __init__(self, processor: ImageProcessor, max_bytes: int = 256 << 20):
        self.processor, self.max_bytes = processor, max_bytes
        self._items: OrderedDict[str, tuple[np.ndarray, tuple[int, int, int]]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def n_images(self) -> int:
        """Images whose patches are kept."""
        return len(self._items)

    @property
    def n_bytes(self) -> int:
        """Bytes of the patches that are kept."""
        return self._bytes

    def get(self, image: Image) -> tuple[np.ndarray, tuple[int, int, int]]:
        """(float32[n_patches, patch_dim], grid (t, h, w)) of an image."""
        key = image.sha256
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
                return self._items[key]
        item = self.processor(image.pixels)
        with self._lock:
            if key not in self._items:
                self._items[key] = item
                self._bytes += item[0].nbytes
            while self._bytes > self.max_bytes and len(self._items) > 1:
                self._bytes -= self._items.popitem(last=False)[1][0].nbytes
        return item
