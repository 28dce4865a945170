"""M-RoPE positions of text and images, made on the host piece by piece.

Qwen2-VL (arXiv 2409.12191, section 2.1): text advances time, height and width together; an image holds
time still and counts its merged rows and columns; what follows starts after the largest position used.
"""

from collections.abc import Sequence

import numpy as np

Grid = tuple[int, int, int]


def text_positions(start: int, n: int) -> tuple[np.ndarray, int]:
    """Positions of n text tokens.

    >>> text_positions(3, 2)[0].tolist(), text_positions(3, 2)[1]
    ([[3, 4], [3, 4], [3, 4]], 5)

    Returns:
      int32[3, n], and the next free position.
    """
    return np.tile(np.arange(start, start + n, dtype=np.int32), (3, 1)), start + n


def image_positions(start: int, grid: Grid, merge: int) -> tuple[np.ndarray, int]:
    """Positions of one image's tokens, merged rows outermost.

    >>> image_positions(5, (1, 4, 6), 2)[0].tolist()
    [[5, 5, 5, 5, 5, 5], [5, 5, 5, 6, 6, 6], [5, 6, 7, 5, 6, 7]]
    >>> image_positions(5, (1, 4, 6), 2)[1]
    8

    Args:
      start: first free position.
      grid: (1, rows, columns) in patches.
      merge: side of a merge block in patches.

    Returns:
      int32[3, n_tokens], and the next free position: start + max(merged rows, merged columns).

    Raises:
      ValueError: more than one frame, or a grid that merge does not divide.
    """
    frames, height, width = grid
    if frames != 1 or height % merge or width % merge or min(height, width) < 1:
        raise ValueError(f"an image's grid must be (1, h, w) with h, w multiples of {merge}: got {tuple(grid)}")
    rows, columns = height // merge, width // merge
    h, w = np.divmod(np.arange(rows * columns, dtype=np.int32), np.int32(columns))
    return np.stack([np.zeros_like(h), h, w]) + np.int32(start), start + max(rows, columns)


def mrope_positions(
    tokens: np.ndarray, grids: Sequence[Grid], image_token_id: int, merge: int
) -> tuple[np.ndarray, int]:
    """Positions of a whole sequence; the i-th run of image tokens is as long as grids[i] says.

    Images may touch: lengths come from the grids, never from where a run of image tokens ends.

    Args:
      tokens: int32[T].
      grids: (1, rows, columns) in patches, in the order of the images.
      image_token_id: the token that stands for one feature.
      merge: side of a merge block in patches.

    Returns:
      int32[3, T], and the next free position.

    Raises:
      ValueError: image tokens and grids do not match.
    """
    tokens = np.asarray(tokens)
    is_image = tokens == image_token_id
    expected = sum(int(np.prod(grid)) // merge**2 for grid in grids)
    if int(is_image.sum()) != expected:
        raise ValueError(f"image tokens must be as many as the grids say, {expected}: got {int(is_image.sum())}")
    pieces, at, position = [np.zeros((3, 0), np.int32)], 0, 0
    for grid in grids:
        first = at + int(np.argmax(is_image[at:]))
        text, position = text_positions(position, first - at)
        image, position = image_positions(position, grid, merge)
        at = first + image.shape[1]
        if not is_image[first:at].all():
            raise ValueError(f"an image of grid {tuple(grid)} must be {image.shape[1]} image tokens in one run")
        pieces += [text, image]
    text, position = text_positions(position, len(tokens) - at)
    return np.concatenate([*pieces, text], axis=1), position
