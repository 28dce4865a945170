"""Search services on the network, asked one at a time or recorded: a retriever, Serper, DuckDuckGo.

The retriever's request and reply are those of Search-R1's server (https://github.com/PeterGriffinJin/Search-R1,
search_r1/search/retrieval_server.py). Serper: https://serper.dev. DuckDuckGo: ddgs_search.py.

Every result is cleaned and capped here, before it is recorded or shown.
"""

import contextlib
import math
import os
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from arft_jax.tools import clean
from arft_jax.tools.call import Call, Fault
from arft_jax.tools.ddgs_search import Ddgs
from arft_jax.tools.http_json import JsonClient
from arft_jax.tools.reply_cache import ReplyCache
from arft_jax.tools.search_backend import Hit
from arft_jax.words import CACHE_MODES, REMOTE_SEARCHES

TRY_S = {"http": 2.0, "serper": 4.0, "ddgs": 8.0}  # seconds in which a well service answers
SERPER_URL = "https://google.serper.dev/search"
SERPER_KEY = "SERPER_API_KEY"  # of the environment
_MAX_QUERY_CHARS = 500
_MAX_READ_CHARS = 4 * _MAX_QUERY_CHARS  # to normalise accents without end takes the square of their number
_MAX_TITLE_CHARS = 300
_MAX_TEXT_CHARS = 8000
_MAX_SOURCE_CHARS = 2000


class Service(Protocol):
    """One kind of network service; called from several threads at once."""

    def ask(self, request: dict[str, Any], call: Call) -> list[Hit]:
        """Asks; raises Fault or Cancelled. The request is that of :data:`REQUESTS`."""
        ...


# What is asked, as a JSON object without secrets; equal questions are equal objects, so that replies can be recorded.
REQUESTS: dict[str, Callable[[str, int], dict[str, Any]]] = {
    "http": lambda query, top_k: {"queries": [query], "topk": top_k, "return_scores": True},
    "serper": lambda query, top_k: {"q": query, "num": top_k},
    "ddgs": lambda query, top_k: {"query": query, "max_results": top_k},
}


class HttpRetriever:
    """A retriever of one's own: POST {"queries", "topk", "return_scores"} -> {"result": [[{"document", "score"}]]}.

    Args:
      client: of the server.
    """

    def __init__(self, client: JsonClient):
        self._client = client

    def ask(self, request: dict[str, Any], call: Call) -> list[Hit]:
        """See Service."""
        match self._client.post(request, call):
            case {"result": [[*results]]}:
                return [self._hit(result) for result in results]
        raise Fault("a reply that is not {'result': [[...]]}")

    @staticmethod
    def _hit(result: Any) -> Hit:
        match result:
            case {"document": {"contents": str(contents)}, "score": int() | float() as score}:
                # a passage is its title in quotes, a line end, its text
                title, line_end, text = contents.partition("\n")
                return Hit(title.strip().strip('"'), text, float(score)) if line_end else Hit("", title, float(score))
        raise Fault("a result that is not {'document': {'contents': ...}, 'score': ...}")


class Serper:
    """Google's results through serper.dev: the organic ones, title and snippet, scored 1 / rank.

    Args:
      client: of the service, with its key.
    """

    def __init__(self, client: JsonClient):
        self._client = client

    def ask(self, request: dict[str, Any], call: Call) -> list[Hit]:
        """See Service."""
        match self._client.post(request, call):
            case {"organic": [*results]}:
                return [self._hit(result, 1.0 / rank) for rank, result in enumerate(results, start=1)]
            case {"searchParameters": {**_params}, **rest} if "organic" not in rest:
                return []
        raise Fault("a reply without 'organic' results")

    @staticmethod
    def _hit(result: Any, score: float) -> Hit:
        match result:
            case {"title": str(title), **rest}:
                text, link = rest.get("snippet", ""), rest.get("link", "")  # a result may come without a snippet
                if isinstance(text, str) and isinstance(link, str):
                    return Hit(title, text, score, link)
        raise Fault("a result that is not {'title': ..., 'snippet': ...}")


def _safe(hit: Hit) -> Hit:
    if not math.isfinite(hit.score):
        raise Fault(f"a result whose score is {hit.score}")
    return Hit(
        clean.clean_text(hit.title, _MAX_TITLE_CHARS),
        clean.clean_text(hit.text, _MAX_TEXT_CHARS),
        hit.score,
        clean.clean_text(hit.source, _MAX_SOURCE_CHARS),
    )


class RemoteSearch:
    """A search back-end over a service, its replies recorded or replayed where a cache is given.

    Args:
      name: of the service, part of the key of what is recorded.
      service: None where nothing may be asked.
      cache: None records nothing.

    Raises:
      ValueError: neither a service nor a cache.
    """

    def __init__(self, name: str, service: Service | None, cache: ReplyCache | None = None):
        if service is None and (cache is None or cache.mode != "replay"):
            raise ValueError("a search must have a service to ask, or replies to replay")
        self._name, self._service, self._cache = name, service, cache

    def counts(self) -> dict[str, float]:
        """``cache_faults``: recorded replies that were damaged or could not be read or written, since the start."""
        return {} if self._cache is None else {"cache_faults": float(self._cache.n_faults)}

    def recall(self, query: str, top_k: int) -> list[Hit] | None:
        """What is known without asking: a recorded reply; nothing, for an empty query. None: :meth:`fetch` it.

        Raises:
          Fault: in replay, nothing is recorded that can be read.
        """
        query = normalise(query)
        if not query:
            return []
        if self._cache is None:
            return None
        reply = self._cache.get(self._name, REQUESTS[self._name](query, top_k))
        return None if reply is None else [Hit(*hit) for hit in reply]

    def fetch(self, query: str, top_k: int, call: Call) -> list[Hit]:
        """Asks the service, records the reply; raises Fault or Cancelled."""
        if self._service is None:
            raise Fault(f"{self._name} may not be asked while its replies are replayed", retry=False)
        request = REQUESTS[self._name](normalise(query), top_k)
        hits = [_safe(hit) for hit in self._service.ask(request, call)[:top_k]]
        if self._cache is None:
            return hits
        reply = [[hit.title, hit.text, hit.score, hit.source] for hit in hits]
        return [Hit(*hit) for hit in self._cache.put(self._name, request, reply)]

    def search(self, query: str, top_k: int, corpus: str = "", deadline_s: float = 20.0) -> list[Hit]:
        """One question by hand, tried once; see SearchBackend.

        Raises:
          Fault: no reply.
          ValueError: a named corpus.
        """
        check_corpus(corpus)
        known = self.recall(query, top_k)
        return self.fetch(query, top_k, Call(deadline_s)) if known is None else known


def check_corpus(corpus: str) -> None:
    """Raises a ValueError for a named collection: services have none."""
    if corpus:
        raise ValueError(
            f"a search service has no collections: asked for {corpus!r}; use the local index for this task "
            "(config.tools.search.backend)"
        )


def normalise(query: str) -> str:
    """The form in which a query is asked and recorded.

    >>> normalise("  Ada \\n Lovelace\\x00 ")
    'Ada Lovelace'
    """
    text = unicodedata.normalize("NFC", query[:_MAX_READ_CHARS])
    return " ".join(clean.clean_text(text, len(text) + 1).split())[:_MAX_QUERY_CHARS].rstrip()


def _service(backend: str, url: str, max_bytes: int) -> Service:
    if backend == "ddgs":
        return Ddgs()
    if backend == "http":
        return HttpRetriever(JsonClient(url, max_bytes=max_bytes))
    key = os.environ.get(SERPER_KEY, "").strip()
    if not key:
        raise ValueError(f"the environment must hold {SERPER_KEY}: it does not (config.tools.search.backend='serper')")
    return Serper(JsonClient(url or SERPER_URL, {"X-API-KEY": key}, max_bytes=max_bytes))


@contextlib.contextmanager
def open_remote_search(
    backend: str, *, url: str = "", cache: str = "", cache_mode: str = "off", max_bytes: int = 1 << 20
) -> Iterator[RemoteSearch]:
    """A search service and its recorded replies, closed on leaving. To replay, neither key nor URL is needed.

    Args:
      backend: one of :data:`REMOTE_SEARCHES`.
      url: of the retriever (``http``); another address than Serper's own (``serper``); unused by ``ddgs``.
      cache: file of recorded replies.
      cache_mode: one of ``CACHE_MODES`` of words.py.
      max_bytes: inclusive cap on a reply, of ``http`` and ``serper``.

    Raises:
      ValueError: an unknown back-end or mode, no key, no URL, no package, no such cache.
    """
    if backend not in REMOTE_SEARCHES:
        raise ValueError(f"backend must be one of {REMOTE_SEARCHES}: got {backend!r} (config.tools.search.backend)")
    if cache_mode not in CACHE_MODES:
        raise ValueError(
            f"cache_mode must be one of {CACHE_MODES}: got {cache_mode!r} (config.tools.search.cache_mode)"
        )
    with contextlib.ExitStack() as stack:
        service = None if cache_mode == "replay" else _service(backend, url, max_bytes)
        replies = None if cache_mode == "off" else stack.enter_context(ReplyCache(cache, cache_mode))
        yield RemoteSearch(backend, service, replies)
