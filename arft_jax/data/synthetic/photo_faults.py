"""The paper's faults for pictures of any size, each of a strength that is drawn, and the code that repairs them.

Visual-ARFT (arXiv 2505.14246) names the kinds and not their strengths. The one that can be measured in its published
items is that of ``dark``: pixels times 0.2, whose neighbourhood is drawn here. The others are strong enough that a
reader is hindered and weak enough that the repair helps, which a test measures:

    dark            times 0.15 to 0.25
    overexposure    distance to white times 0.15 to 0.3
    blur            Gaussian, its deviation 0.6 to 1.2 % of the shorter side, one pixel at least
    noise           3 to 9 % of all pixels black, as many white

The repair depends on the kind alone, never on the strength or the picture: what it is there to teach is to see the
kind. Turns, and the order of two faults, are those of degrade.py.
"""

import cv2
import numpy as np

from arft_jax.data.synthetic import degrade

FAULT_SETS = tuple(kinds for kinds in degrade.PROBLEM_SETS if kinds != ("crop",))
_DARK, _OVEREXPOSURE = (0.15, 0.25), (0.15, 0.3)
_BLUR, _NOISE = (0.006, 0.012), (0.03, 0.09)
_STRETCH = "x = cv2.normalize(x, None, 0, 255, cv2.NORM_MINMAX)\n"
REPAIRS = {
    "rotation90": "x = cv2.rotate(x, cv2.ROTATE_90_COUNTERCLOCKWISE)\n",
    "rotation180": "x = cv2.rotate(x, cv2.ROTATE_180)\n",
    "dark": _STRETCH,
    "overexposure": _STRETCH,
    "blur": (
        "s = max(1.0, 0.008 * min(x.shape[:2]))\n"
        "x = cv2.addWeighted(x, 3, cv2.GaussianBlur(x, (0, 0), s), -2, 0)\n"
    ),
    "noise": "x = cv2.medianBlur(x, 3)\n",
}  # fmt: skip


def spoil(pixels: np.ndarray, kinds: tuple[str, ...], rng: np.random.Generator) -> np.ndarray:
    """Applies faults, turns first.

    Args:
      pixels: uint8[h, w, 3].
      kinds: of protocol.KINDS; ``crop`` and ``none`` leave the picture as it is.
      rng: draws strengths, and the places of noise.

    Returns:
      uint8[h, w, 3], or uint8[w, h, 3] for rotation90.
    """
    for kind in sorted(kinds, key=lambda k: k not in degrade.ROTATIONS):
        pixels = _spoil_once(pixels, kind, rng)
    return pixels


def _spoil_once(pixels: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    if kind == "dark":
        return _scaled(pixels, rng.uniform(*_DARK), 0.0)
    if kind == "overexposure":
        contrast = rng.uniform(*_OVEREXPOSURE)
        return _scaled(pixels, contrast, 255 * (1 - contrast))
    if kind == "blur":
        return cv2.GaussianBlur(pixels, (0, 0), max(1.0, rng.uniform(*_BLUR) * min(pixels.shape[:2])))
    if kind == "noise":
        share, dice = rng.uniform(*_NOISE), rng.random(pixels.shape[:2], np.float32)
        noisy = pixels.copy()
        noisy[dice < share], noisy[dice > 1 - share] = 0, 255
        return noisy
    return degrade.degrade(pixels, kind, rng)


def _scaled(pixels: np.ndarray, factor: float, offset: float) -> np.ndarray:
    table = np.rint(np.arange(256) * factor + offset).astype(np.uint8)
    return table[pixels]


def repair_code(kinds: tuple[str, ...], box: degrade.Box | None = None) -> str:
    """Python source that repairs what the kinds did, or cuts the box out; see degrade.repair_code."""
    return degrade.repair_code(kinds, box, REPAIRS)
