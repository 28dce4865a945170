"""What a worker loads before it forks: nothing native can be loaded afterwards (seccomp.py).

Loaded are numpy, PIL, OpenCV and what programs about images use of the standard library. More would be
kinder to programs and costs every fork: a mapping each takes its time to copy.
"""

import contextlib
import importlib
import io

import cv2
import numpy as np
import numpy.fft
import numpy.linalg
import numpy.ma
import numpy.polynomial
import numpy.random
import PIL.Image

from arft_jax.data import images

_LARGE_BYTES = 16 << 20

_USUAL = """
base64 binascii bisect calendar cmath colorsys concurrent.futures.thread copy csv ctypes dataclasses datetime
decimal enum fractions glob hashlib heapq io itertools json math mmap operator pickle pprint queue random re
shutil statistics string struct textwrap threading time typing unicodedata uuid zlib zoneinfo PIL.ImageChops
PIL.ImageCms PIL.ImageColor PIL.ImageDraw PIL.ImageEnhance PIL.ImageFilter PIL.ImageFont PIL.ImageMath
PIL.ImageMorph PIL.ImageOps PIL.ImagePalette PIL.ImageSequence PIL.ImageStat PIL.ImageTransform
""".split()


def _load_all() -> None:
    for name in _USUAL:
        # An optional library is missing on this host: the code that asks for it sees the ImportError.
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def warm_up() -> None:
    """Loads modules, codecs and lazily set up tables before the first fork, so that no call pays for them."""
    cv2.setNumThreads(0)
    images.readable_formats()  # Pillow's plugins and their native codecs
    _load_all()
    pixels = np.zeros((16, 16, 3), np.uint8)
    for suffix in (".jpg", ".png", ".bmp"):
        encoded = cv2.imencode(suffix, pixels)[1]
        cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    cv2.GaussianBlur(cv2.rotate(pixels, cv2.ROTATE_180), (3, 3), 0)
    cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    for kind in ("JPEG", "PNG", "WEBP"):
        with contextlib.suppress(KeyError, OSError):  # Pillow without this codec
            image = PIL.Image.fromarray(pixels).rotate(90, expand=True).resize((8, 8))
            image.save(io.BytesIO(), kind)
    # The C library gives blocks above a threshold back at once, and raises it to the largest that was. Arrays of images
    # are above the first one: their pages would be made anew for each.
    bytearray(_LARGE_BYTES)
    np.linalg.norm(pixels)
    np.linalg.svd(np.eye(3))
