"""One search for task sets that each have a corpus of their own: a query goes to the index of its task's set.

The set's name stands before the collection's in ``Task.corpus``, so that tools that pass the corpus on need not know.
"""

import contextlib
import pathlib
from collections.abc import Iterator, Mapping

from arft_jax.tools.search_backend import Hit, SearchBackend
from arft_jax.tools.search_index import SearchIndex

_MARK = ":"
ALL = ""  # the name of an index that serves tasks of every set, whose corpora carry no set's name


def routed(task_set: str, corpus: str) -> str:
    """The corpus of a task whose set has an index of its own.

    >>> routed("mini_search", "world-3"), routed("photos", "")
    ('mini_search:world-3', 'photos:')
    """
    return f"{task_set}{_MARK}{corpus}"


class CorpusRouter:
    """A :class:`SearchBackend` over several.

    Args:
      backends: by the name of the task set.
    """

    def __init__(self, backends: Mapping[str, SearchBackend]):
        self._backends = dict(backends)

    def search(self, query: str, top_k: int, corpus: str = "") -> list[Hit]:
        """Finds what matches in the corpus of a task set; nothing for a set that has none."""
        task_set, _, inner = corpus.partition(_MARK)
        backend = self._backends.get(task_set)
        return [] if backend is None else backend.search(query, top_k, inner)


@contextlib.contextmanager
def open_indices(paths: Mapping[str, pathlib.Path]) -> Iterator[SearchBackend | None]:
    """What searches these indices, open until it is left; each file once. None where there is none.

    Args:
      paths: by the name of the task set; the name :data:`ALL` alone: an index for all tasks.

    Raises:
      ValueError, FileNotFoundError: an index that cannot be read.
    """
    with contextlib.ExitStack() as stack:
        opened = {path: stack.enter_context(SearchIndex(path)) for path in dict.fromkeys(paths.values())}
        if set(paths) == {ALL}:
            yield opened[paths[ALL]]
        else:
            yield CorpusRouter({name: opened[path] for name, path in paths.items()}) if paths else None
