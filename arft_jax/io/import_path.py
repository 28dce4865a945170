"""Objects of the user's own modules by import path, ``my_package.my_module:name``: rewards and tools."""

import difflib
import functools
import importlib
import os
import sys
from typing import Any


def load_object(path: str, key: str) -> Any:
    """The object that an import path names; the current directory is searched last.

    Args:
      path: ``module:name``, dots allowed on both sides.
      key: of the config, named in errors: ``config.rewards.extra``.

    Raises:
      ValueError: a path of another form, a module that cannot be imported, a name that it does not have.
    """
    module_name, colon, name = path.partition(":") if isinstance(path, str) else ("", "", "")
    parts = [*module_name.split("."), *name.split(".")]
    if not colon or not all(part.isidentifier() for part in parts):
        raise ValueError(f"an import path must be of the form my_package.my_module:name: got {path!r} ({key})")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())  # a console command has no directory of its own on the path
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # an import runs the module, which may raise anything
        raise ValueError(
            f"{module_name} must be importable: got {type(error).__name__}: {_one_line(error)}, for {path!r} ({key})"
        ) from error
    try:
        return functools.reduce(getattr, name.split("."), module)
    except AttributeError as error:
        near = difflib.get_close_matches(name, dir(module), 1)
        hint = f"; did you mean {module_name}:{near[0]}?" if near else ""
        raise ValueError(f"{module_name} must have {name}: it has no such name, for {path!r} ({key}){hint}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
