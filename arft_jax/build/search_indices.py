"""From a config to the local indices that its task sets search: which there are, where they lie, their first making."""

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping, Sequence

from arft_jax.config import JSONL, PUBLIC_TASKS, SEARCHING_TASKS, task_set_name
from arft_jax.data import jsonl_tasks, mat, public_sets
from arft_jax.tools import search_corpus
from arft_jax.tools.search_router import ALL, routed
from arft_jax.trajectory import Task

_MAT = ("mat_search", "mat_training_search")  # over one corpus


def data_dir(config) -> pathlib.Path:
    """The user's data (mat.py has the layout); also where prepared data sets and search indices are kept."""
    return pathlib.Path(config.data.dir or pathlib.Path(config.workdir) / "data")


def searching_sets(config) -> list[str]:
    """Entries of config.data.tasks whose tasks may search: those that are made for it, and the user's own files."""
    return [task for task in config.data.tasks if task in SEARCHING_TASKS or task.startswith(JSONL)]


def corpus_file(config, entry: str) -> pathlib.Path | None:
    """The file of documents that a task set searches; None where it has none, or they are made."""
    if entry in _MAT:
        return data_dir(config) / mat.CORPUS
    if entry in PUBLIC_TASKS:
        return public_sets.corpus_file(entry, data_dir(config))
    if not entry.startswith(JSONL):
        return None
    given = dict(config.data.corpora).get(task_set_name(entry))
    if given is not None:
        return pathlib.Path(given).expanduser()
    path = jsonl_tasks.file_of(entry)
    beside = path.with_name(f"{path.stem}.corpus.jsonl")
    return beside if beside.is_file() else None


def index_paths(config) -> dict[str, pathlib.Path]:
    """The local index of each task set that has a corpus, whether it is there or not.

    Where one set alone may search, its index has the name ``search_router.ALL``, and corpora carry no set's name.
    """
    found = {}
    for entry in searching_sets(config):
        corpus, name = corpus_file(config, entry), task_set_name(entry)
        if corpus is not None:
            label = "mat_search" if entry in _MAT else corpus.parent.name if entry in PUBLIC_TASKS else name
            found[name] = search_corpus.corpus_index_path(corpus, pathlib.Path(config.workdir) / "data", label)
        elif entry == "mini_search":
            found[name] = data_dir(config) / f"mini_search-{config.seed}.index"
    if _is_routed(config):
        return found
    return {ALL: next(iter(found.values()))} if found else {}


def _is_routed(config) -> bool:
    return len(searching_sets(config)) > 1 and config.tools.search.backend == "local"


def found_indices(config) -> dict[str, pathlib.Path] | None:
    """As :func:`index_paths`; None where no set searches texts."""
    return index_paths(config) or None


def make_indices(config) -> None:
    """Builds the indices that are not there, where searching is local.

    Raises:
      ValueError: a corpus that cannot be read, or holds nothing.
    """
    entries = searching_sets(config)
    paths, routes = index_paths(config), _is_routed(config)
    for entry in entries:
        path = paths.get(task_set_name(entry) if routes else ALL)
        corpus = corpus_file(config, entry)
        if path is None or config.tools.search.backend != "local":
            continue
        if entry == "mini_search":
            path.parent.mkdir(parents=True, exist_ok=True)
            search_corpus.index_mini(config.seed, path)
        else:
            search_corpus.index_corpus(corpus, path)


def check_collections(config, tasks: Iterable[Task]) -> None:
    """Refuses tasks that search one collection where a service is searched, which has none.

    Raises:
      ValueError: such a task.
    """
    backend = config.tools.search.backend
    for task in tasks if backend != "local" else ():
        if task.corpus:
            raise ValueError(
                f"a search service has no collections: got corpus={task.corpus!r} of the task {task.id!r} "
                f"(config.data.tasks) and backend={backend!r} (config.tools.search.backend)"
            )


def route_tasks(config, tasks: Mapping[str, Mapping[str, Sequence[Task]]]) -> dict[str, dict[str, list[Task]]]:
    """The tasks, each with the name of its set before its corpus where several sets may search."""
    names = {task_set_name(entry) for entry in searching_sets(config)} if _is_routed(config) else set()

    def route(name: str, task: Task) -> Task:
        return dataclasses.replace(task, corpus=routed(name, task.corpus)) if name in names else task

    return {
        name: {split: [route(name, task) for task in items] for split, items in splits.items()}
        for name, splits in tasks.items()
    }
