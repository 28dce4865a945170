"""Shape checks at the door of public functions."""

from typing import Any


def check_axes(**arrays: tuple[Any, str]) -> dict[str, int]:
    """Checks that every array has the named axes and that one letter means one size.

    >>> import numpy as np
    >>> check_axes(q=(np.zeros((2, 3)), "BT"), mask=(np.zeros((2, 3, 5)), "BTS"))
    {'B': 2, 'T': 3, 'S': 5}

    Args:
      **arrays: name = (array, axes), one letter an axis.

    Returns:
      The size of every letter.

    Raises:
      ValueError: a rank or a size does not fit; the message names the array and what it must be.
    """
    sizes: dict[str, int] = {}
    owner: dict[str, str] = {}
    for name, (array, axes) in arrays.items():
        if len(array.shape) != len(axes):
            raise ValueError(f"{name} must have the axes [{', '.join(axes)}]: got shape {tuple(array.shape)}")
        for axis, size in zip(axes, array.shape, strict=True):
            if sizes.setdefault(axis, size) != size:
                raise ValueError(
                    f"axis {axis} of {name} must be {sizes[axis]} as in {owner[axis]}: "
                    f"got {axis}={size} (shape {tuple(array.shape)})"
                )
            owner.setdefault(axis, name)
    return sizes
