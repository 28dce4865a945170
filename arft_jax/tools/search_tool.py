"""The tool that searches texts: in the local index, or over the network."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from arft_jax.syntax.spec import BadCall, ToolSpec
from arft_jax.tools.context import ToolContext
from arft_jax.tools.record import CallPolicy, Job, Tool, ToolHost
from arft_jax.tools.remote_search import TRY_S, RemoteSearch, check_corpus, open_remote_search
from arft_jax.tools.result_text import format_hits
from arft_jax.tools.search_backend import Hit, SearchBackend
from arft_jax.tools.search_router import open_indices
from arft_jax.trajectory import Observation

MAX_RESULT_CHARS = 1000


def read_query(body: str) -> dict[str, Any]:
    """The words of a query, single spaces between them.

    Raises:
      BadCall: no words.
    """
    query = " ".join(body.split())
    if not query:
        raise BadCall("the query is empty")
    return {"query": query}


class SearchService:
    """Finds texts.

    Args:
      search: the back-end; its owner closes it.
      top_k: results shown.
      max_result_chars: cap on each.
    """

    def __init__(self, search: SearchBackend, top_k: int, max_result_chars: int = MAX_RESULT_CHARS):
        for name, value in (("top_k", top_k), ("max_result_chars", max_result_chars)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1: got {value}")
        self._search, self._top_k, self._max_result_chars = search, top_k, max_result_chars

    def counts(self) -> dict[str, float]:
        """See :meth:`RemoteSearch.counts`; nothing of a local index."""
        return self._search.counts() if isinstance(self._search, RemoteSearch) else {}

    def begin(self, arguments: Mapping[str, Any], context: ToolContext) -> Job:
        """See :class:`arft_jax.tools.record.Service`."""
        search, top_k, query, corpus = self._search, self._top_k, arguments["query"], context.task.corpus
        if not isinstance(search, RemoteSearch):
            return Job(lambda call: self._show(search.search(query, top_k, corpus)))

        def recall() -> Observation | None:
            check_corpus(corpus)
            hits = search.recall(query, top_k)
            return None if hits is None else self._show(hits)

        return Job(lambda call: self._show(search.fetch(query, top_k, call)), recall)

    def _show(self, hits: list[Hit]) -> Observation:
        return Observation(format_hits(hits, self._max_result_chars))


@contextlib.contextmanager
def _open(host: ToolHost) -> Iterator[SearchService]:
    s = host.settings["search"]
    if s["backend"] == "local":
        opened = open_indices(host.search_indices)
    else:
        opened = open_remote_search(s["backend"], url=s["url"], cache=s["cache"], cache_mode=s["cache_mode"])
    with opened as search:
        yield SearchService(search, host.settings["top_k"])


def _lacks(host: ToolHost) -> str:
    if host.settings["search"]["backend"] == "local" and host.search_indices is None:
        return (
            "search needs a task set with texts to search, or a back-end over the network (config.tools.search.backend)"
        )
    return ""


def _policy(host: ToolHost) -> CallPolicy:
    """A search over the network is called by terms of its own."""
    s = host.settings["search"]
    if s["backend"] == "local":
        return host.usual_policy
    try_s = s["try_s"] or TRY_S[s["backend"]]
    return CallPolicy(s["n_threads"], s["deadline_s"], try_s, host.settings["n_tries"], calls_per_s=s["calls_per_s"])


SEARCH = Tool(
    ToolSpec(
        name="search",
        description="Searches texts; the best results come back.",
        parameters={
            "type": "object",
            "properties": {"query": {"type": "string", "description": "What to look for, in words."}},
            "required": ["query"],
        },
        tag="search",
        line="<search>...</search> gives a query in words, without the picture. The best results come back between "
        "<information> and </information>.",
        read_body=read_query,
        kinds=("search", "general"),
        tells=False,
    ),
    _open,
    _lacks,
    _policy,
)
