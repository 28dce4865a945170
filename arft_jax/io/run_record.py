"""What a folder of results says of how they were made: flat JSON, the commit and the libraries, and what differs."""

import json
import os
import pathlib
import subprocess
from collections.abc import Mapping
from importlib import metadata
from typing import Any

LIBRARIES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "transformers",
    "numpy",
    "pillow",
    "opencv-python-headless",
)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as {"a.b": value}; tuples become lists, as JSON has them."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    os.replace(temporary, path)


def versions() -> dict[str, str]:
    """The commit of this package, where it is a checkout, and the versions of the libraries that figures depend on."""
    try:
        here = pathlib.Path(__file__).parent
        ask = ["git", "-C", str(here), "rev-parse", "HEAD"]
        commit = subprocess.run(ask, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        commit = ""
    found = {"commit": commit or "unknown"}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def differences(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> str:
    """The first five keys in which two flat records differ, in words; empty where they are the same.

    >>> differences({"a": 1, "b": 2}, {"a": 1, "b": 3})
    'b=2 there and 3 here'
    """
    names = sorted(key for key in theirs.keys() | mine.keys() if theirs.get(key) != mine.get(key))
    shown = ", ".join(f"{key}={theirs.get(key)!r} there and {mine.get(key)!r} here" for key in names[:5])
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")
