"""The configurations that come with the package, by name: ``tiny_cpu`` for ``configs/tiny_cpu.py``."""

import os
import pathlib

import arft_jax
from arft_jax.commands import suggest


def shipped_configs() -> dict[str, pathlib.Path]:
    """{name: file}. An installed wheel has them in the package, a checkout beside it in ``configs/``."""
    package = pathlib.Path(arft_jax.__file__).parent
    inside = package / "configs"
    folder = inside if inside.is_dir() else package.parent / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.py")) if path.stem != "__init__"}


def find_config(value: str) -> str:
    """A value of ``--config`` with a shipped name replaced by its file; the variant behind the colon stays.

    Args:
      value: ``NAME``, ``NAME:VARIANT``, or a path with or without a variant, which is returned as it is.

    Raises:
      ValueError: neither a shipped name nor a path.
    """
    name, colon, variant = value.partition(":")
    shipped = shipped_configs()
    if name in shipped:
        return f"{shipped[name]}{colon}{variant}"
    if name and not name.endswith(".py") and os.sep not in name and not os.path.exists(name):
        near = suggest.nearest(name, shipped)
        raise ValueError(
            f"a configuration must be a file or the name of a shipped one ({', '.join(shipped)}): got {name!r}"
            f"{suggest.question([near] if near else [])} (--config)"
        )
    return value


def hint(path: str) -> str:
    """What to type in place of a path that does not exist and is called as a shipped configuration; else nothing."""
    name = pathlib.Path(path.partition(":")[0]).stem
    near = suggest.nearest(name, shipped_configs())
    return f"; did you mean --config={near}?" if near and not os.path.exists(path.partition(":")[0]) else ""
