"""The paper's kinds of degradation, and for each the short code that repairs it.

Visual-ARFT (arXiv 2505.14246) names eight kinds: see :data:`arft_jax.protocol.KINDS`. The repair of a kind
does not depend on the image, so that which repair to choose is all there is to learn.
"""

from collections.abc import Mapping

import cv2
import numpy as np

from arft_jax import protocol

ROTATIONS = ("rotation90", "rotation180")
PHOTOMETRIC = ("dark", "overexposure", "blur", "noise")
PAIRS = tuple((rotation, other) for rotation in ROTATIONS for other in PHOTOMETRIC)
PROBLEM_SETS = tuple((kind,) for kind in protocol.KINDS) + PAIRS

Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in 0..1000 of width and height

_REPAIR: Mapping[str, str] = {
    "rotation90": "x = cv2.rotate(x, cv2.ROTATE_90_COUNTERCLOCKWISE)\n",
    "rotation180": "x = cv2.rotate(x, cv2.ROTATE_180)\n",
    "dark": "x = cv2.convertScaleAbs(x, alpha=6)\n",
    "overexposure": "x = cv2.addWeighted(x, 6, x, 0, -1290)\n",
    "blur": "x = cv2.addWeighted(x, 8, cv2.GaussianBlur(x, (0, 0), 2), -7, 0)\n",
    "noise": "x = cv2.medianBlur(x, 3)\n",
}


def degrade(pixels: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Applies one kind; ``crop`` and ``none`` leave the image as it is.

    Args:
      pixels: uint8[h, w, 3].
      kind: one of protocol.KINDS; rotation90 turns clockwise.
      rng: draws the strength (dark) and the places (noise).

    Returns:
      uint8[h, w, 3], or uint8[w, h, 3] for rotation90.

    Raises:
      ValueError: unknown kind.
    """
    if kind == "rotation90":
        return np.ascontiguousarray(np.rot90(pixels, -1))
    if kind == "rotation180":
        return np.ascontiguousarray(np.rot90(pixels, 2))
    if kind == "dark":
        return np.rint(pixels * rng.uniform(0.14, 0.19)).astype(np.uint8)
    if kind == "overexposure":
        return np.rint(pixels * 0.15 + 215).astype(np.uint8)
    if kind == "blur":
        return cv2.GaussianBlur(pixels, (0, 0), 3.0)
    if kind == "noise":
        dice = rng.random(pixels.shape[:2])
        noisy = pixels.copy()
        noisy[dice < 0.09], noisy[dice > 0.91] = 0, 255
        return noisy
    if kind in ("crop", "none"):
        return pixels
    raise ValueError(f"kind must be one of {protocol.KINDS}: got {kind!r}")


def degrade_all(pixels: np.ndarray, kinds: tuple[str, ...], rng: np.random.Generator) -> np.ndarray:
    """Applies several kinds, rotations first."""
    for kind in sorted(kinds, key=lambda k: k not in ROTATIONS):
        pixels = degrade(pixels, kind, rng)
    return pixels


def repair_code(kinds: tuple[str, ...], box: Box | None = None, repairs: Mapping[str, str] = _REPAIR) -> str:
    """Python source that undoes the kinds, photometric ones first.

    Args:
      kinds: kinds of protocol.KINDS.
      box: what to cut out; needed where ``crop`` is among the kinds.
      repairs: the lines that undo a kind; those of this module where none are given.

    Raises:
      ValueError: crop without a box, or an unknown kind.
    """
    lines = []
    for kind in sorted(kinds, key=lambda k: k in ROTATIONS):
        if kind == "crop":
            if box is None:
                raise ValueError("box must be given where kinds hold 'crop'")
            x0, y0, x1, y1 = box
            lines.append("h, w = x.shape[:2]\n")
            lines.append(f"x = x[h*{y0}//1000:h*{y1}//1000, w*{x0}//1000:w*{x1}//1000]\n")
        elif kind != "none":
            if kind not in repairs:
                raise ValueError(f"kind must be one of {protocol.KINDS}: got {kind!r}")
            lines.append(repairs[kind])
    return (
        f"import cv2\nx = cv2.imread('{protocol.INPUT_NAME}')\n"
        + "".join(lines)
        + f"cv2.imwrite('{protocol.OUTPUT_NAME}', x)\n"
    )


def crop_box(pixels: np.ndarray, box: Box) -> np.ndarray:
    """The part of uint8[h, w, 3] inside the box, by the arithmetic of the repair code."""
    height, width = pixels.shape[:2]
    x0, y0, x1, y1 = box
    return pixels[height * y0 // 1000 : height * y1 // 1000, width * x0 // 1000 : width * x1 // 1000]
