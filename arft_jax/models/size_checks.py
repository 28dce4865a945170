"""What a number of a model's configuration may be: each check gives one sentence with the field's name and its value.

The bounds are far beyond every model there is. They keep a configuration that was damaged, or that somebody else wrote,
from making a model that never ends or that divides by zero.
"""

import numbers
from collections.abc import Mapping
from typing import Any

MAX_TOKEN_ID = 2**31 - 1  # ids are int32


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number; true and false are none."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_real(value: Any) -> bool:
    """Whether a value is a number, finite or not; true and false are none."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def whole(name: str, value: Any, most: int, least: int = 1) -> list[str]:
    """One sentence where a value is no whole number from ``least`` to ``most``, both inclusive; else none."""
    if is_whole(value) and least <= value <= most:
        return []
    return [f"{name} must be a whole number from {least} to {most}: got {value!r:.80}"]


def real(name: str, value: Any, least: float, most: float) -> list[str]:
    """One sentence where a value is no number from ``least`` to ``most``, both inclusive; else none."""
    if is_real(value) and least <= value <= most:
        return []
    return [f"{name} must be a number from {least:g} to {most:g}: got {value!r:.80}"]


def flag(name: str, value: Any) -> list[str]:
    """One sentence where a value is neither true, false nor left out; else none."""
    return [] if isinstance(value, bool | None) else [f"{name} must be true or false: got {value!r:.80}"]


def require(problems: list[str]) -> None:
    """Raises one ValueError with all sentences, if there are any."""
    if problems:
        raise ValueError("model configuration: " + "; ".join(problems))


def part(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The object under a key; an empty one where the key is left out or null.

    Raises:
      ValueError: something else than an object.
    """
    value = config.get(key)
    if value is not None and not isinstance(value, Mapping):
        require([f"{key} must be an object: got {value!r:.80}"])
    return value or {}


def as_tuple(value: Any) -> Any:
    """A list as a tuple; anything else as it is, for a check to name."""
    return tuple(value) if isinstance(value, list | tuple) else value


def as_float(value: Any) -> Any:
    """A number as a float where it is one; anything else as it is, for a check to name."""
    return float(value) if is_real(value) and abs(value) <= 1e300 else value
