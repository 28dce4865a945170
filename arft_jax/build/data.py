"""The tasks of a run and the indices that they search, from its config.

The user's own task sets are files that are there or not: they are read while a run is planned. The self-made ones are
written to the data directory on first use, as the indices are: that comes after planning, since the data directory may
lie in a work directory that a refused run must not make.
"""

import pathlib
from collections.abc import Mapping, Sequence

from arft_jax.config import MINI_TASKS, SEARCHING_TASKS
from arft_jax.data import mat, recorded_steps, source
from arft_jax.data.images import Quarantine
from arft_jax.tools import search_corpus
from arft_jax.trajectory import Task

Tasks = Mapping[str, Mapping[str, Sequence[Task]]]  # by the task set's name, then by split: train, test
_CORPUS_TASKS = {"mat_search", "mat_training_search"}  # ask over the user's corpus


def data_dir(config) -> pathlib.Path:
    """The user's data (mat.py has the layout); also where prepared data sets and search indices are kept."""
    return pathlib.Path(config.data.dir or pathlib.Path(config.workdir) / "data")


def missing_files(config) -> list[str]:
    """One sentence for each kind of data that the task sets need and that is not there; reads no file."""
    searches_here = config.tools.search.backend == "local"
    problems = mat.missing_files(config.data.tasks, config.data.dir, searches_here)
    problems += recorded_steps.missing_files(config.data.tasks, config.data.dir)
    pictures = config.tools.search.image_index
    if pictures and not pathlib.Path(pictures).exists():
        problems.append(f"an image index must exist: got {pictures} (config.tools.search.image_index)")
    return problems


def read_own_tasks(config, quarantine: Quarantine) -> Tasks:
    """The task sets that are the user's own files; writes nothing.

    Args:
      config: of the run.
      quarantine: counts the training images that a stand-in replaces.

    Raises:
      ValueError: a file that is not of the layout; the item is named.
    """
    return _load(config, [name for name in config.data.tasks if name not in MINI_TASKS], quarantine)


def prepare_mini_tasks(config) -> Tasks:
    """The self-made task sets, written to the data directory on first use."""
    return _load(config, [name for name in config.data.tasks if name in MINI_TASKS], None)


def _load(config, names: Sequence[str], quarantine: Quarantine | None) -> Tasks:
    options = dict(seed=config.seed, n_train=config.data.n_train, quarantine=quarantine)
    return source.load_splits(names, data_dir(config), **options)


def index_path(config) -> pathlib.Path:
    """The search index that the config's tasks are asked over, whether it is there or not."""
    folder = data_dir(config)
    if _CORPUS_TASKS & set(config.data.tasks):
        return search_corpus.corpus_index_path(folder / mat.CORPUS, pathlib.Path(config.workdir) / "data")
    return folder / f"mini_search-{config.seed}.index"


def prepare_index(config) -> pathlib.Path | None:
    """The search index of the tasks, built on first use where searching is local; None where nothing searches."""
    names, path = set(config.data.tasks), index_path(config)
    if config.tools.search.backend == "local" and _CORPUS_TASKS & names:
        search_corpus.index_corpus(data_dir(config) / mat.CORPUS, path)
    elif "mini_search" in names:
        path.parent.mkdir(parents=True, exist_ok=True)
        search_corpus.index_mini(config.seed, path)
    return path if SEARCHING_TASKS & names else None
