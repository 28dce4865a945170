"""The configuration of a run, rebuilt from its work directory: with it a checkpoint needs nothing else."""

import json
import pathlib
from typing import Any

import ml_collections

from arft_jax.config import default_config
from arft_jax.train.run_dir import HF_FILES, flatten

FILE = "config.json"


def load_run_config(workdir: str | pathlib.Path) -> ml_collections.ConfigDict:
    """The configuration that a run wrote to its work directory, locked.

    ``workdir`` is where the directory is now, and the other keys that are not written are the defaults. Keys that a run
    does not have because it is older are the defaults too. ``tokenizer`` and ``weights`` name the run's own copies of
    those files, since what it was started from may be gone; so an adapter that it was started from is not named.

    Args:
      workdir: of the run.

    Raises:
      ValueError: no run there, no JSON of that layout, or a key that this version does not have.
    """
    folder = pathlib.Path(workdir)
    path, written = folder / FILE, written_keys(workdir)
    names = list(written)
    config = default_config()
    groups = _free_groups(config)
    known = flatten(config.to_dict()).keys()
    fixed: dict[str, Any] = {}
    free: dict[str, dict[str, Any]] = {}
    for name in names:
        group = next((group for group in groups if name.startswith(f"{group}.")), None)
        if group is not None:
            free.setdefault(group, {})[name.removeprefix(f"{group}.")] = written[name]
        elif name in known:
            fixed[name] = written[name]
        else:
            raise ValueError(f"{path} must be of this version: it has the key {name!r}, which is unknown here")
    config.update_from_flattened_dict(fixed)
    with config.unlocked():
        for group, values in free.items():
            *parents, last = group.split(".")
            holder = config
            for parent in parents:
                holder = holder[parent]
            holder[last] = values
        config.workdir = str(folder)
        if config.model.lora.rank:  # the checkpoint holds the adapters, and what they are is written
            config.model.lora.adapter = ""
        _use_own_files(config, folder / HF_FILES)
    return config


def written_keys(workdir: str | pathlib.Path) -> dict[str, Any]:
    """The dotted keys of a run's configuration as it was started.

    Args:
      workdir: of the run.

    Raises:
      ValueError: no run there, or no JSON of that layout.
    """
    folder = pathlib.Path(workdir)
    path = folder / FILE
    if not path.is_file():
        raise ValueError(f"the work directory must hold a run, whose configuration is {FILE}: got {folder} (--workdir)")
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["config"].items())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} must be the configuration of a run ({type(error).__name__}: {error})") from error


def _free_groups(config: ml_collections.ConfigDict, prefix: str = "") -> list[str]:
    """Dotted names of the groups that are empty by default: their keys are the user's, and may hold dots."""
    found = []
    for name, value in config.items():
        if isinstance(value, (ml_collections.ConfigDict, dict)):
            found += _free_groups(value, f"{prefix}{name}.") if len(value) else [prefix + name]
    return found


def _use_own_files(config: ml_collections.ConfigDict, kept: pathlib.Path) -> None:
    if kept.is_dir():
        config.tokenizer = str(kept)
        config.weights = str(kept) if (kept / FILE).is_file() else ""
