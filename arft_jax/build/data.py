"""The tasks of a run, from its config; the indices that they search: search_indices.py.

The user's own task sets are files that are there or not: they are read while a run is planned. The self-made ones are
written to the data directory on first use, as the indices are: that comes after planning, since the data directory may
lie in a work directory that a refused run must not make.
"""

import pathlib
from collections.abc import Mapping, Sequence

from arft_jax.build.search_indices import data_dir
from arft_jax.config import JSONL, MINI_TASKS
from arft_jax.data import jsonl_tasks, mat, recorded_steps, source
from arft_jax.data.images import Quarantine
from arft_jax.trajectory import Task

Tasks = Mapping[str, Mapping[str, Sequence[Task]]]  # by the task set's name, then by split: train, test


def missing_files(config) -> list[str]:
    """One sentence for each kind of data that the task sets need and that is not there; reads no file."""
    searches_here = config.tools.search.backend == "local"
    problems = mat.missing_files(config.data.tasks, config.data.dir, searches_here)
    problems += recorded_steps.missing_files(config.data.tasks, config.data.dir) + _missing_named_files(config)
    pictures = config.tools.search.image_index
    if pictures and not pathlib.Path(pictures).exists():
        problems.append(f"an image index must exist: got {pictures} (config.tools.search.image_index)")
    return problems


def _missing_named_files(config) -> list[str]:
    """A sentence for each file of the user's that a key names and that is not there."""
    named = [("data.tasks", entry) for entry in config.data.tasks if entry.startswith(JSONL)]
    named += [("warm_start.chains", entry) for entry in config.warm_start.chains]
    named += [("data.corpora", JSONL + path) for _, path in config.data.corpora]
    paths = [(key, jsonl_tasks.file_of(entry)) for key, entry in named]
    return [f"the file must exist: got {path} (config.{key})" for key, path in paths if not path.is_file()]


def read_own_tasks(config, quarantine: Quarantine) -> Tasks:
    """The task sets that are the user's own files; writes nothing.

    Args:
      config: of the run.
      quarantine: counts the training images that a stand-in replaces; under ``config.data.strict`` they are refused,
        and all are decoded so that none is found damaged later.

    Raises:
      ValueError: a file that is not of the layout; the item is named.
    """
    strict = config.data.strict
    tasks = _load(config, [n for n in config.data.tasks if n not in MINI_TASKS], None if strict else quarantine)
    if strict:
        source.decode_images(task for splits in tasks.values() for split in splits.values() for task in split)
    return tasks


def prepare_mini_tasks(config) -> Tasks:
    """The self-made task sets, written to the data directory on first use."""
    return _load(config, [name for name in config.data.tasks if name in MINI_TASKS], None)


def _load(config, names: Sequence[str], quarantine: Quarantine | None) -> Tasks:
    options = dict(seed=config.seed, n_train=config.data.n_train, quarantine=quarantine)
    return source.load_splits(names, data_dir(config), **options)
