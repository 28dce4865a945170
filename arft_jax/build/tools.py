"""From a config to the tools of a run: sandbox, searches, and how they are called."""

import contextlib
import pathlib
from collections.abc import Iterator, Mapping

from arft_jax.tools.image_index import ImageIndex
from arft_jax.tools.remote_search import TRY_S, open_remote_search
from arft_jax.tools.runner import CallPolicy
from arft_jax.tools.sandbox import PythonSandbox
from arft_jax.tools.search_router import open_indices
from arft_jax.tools.toolbox import Toolbox


def call_policies(config, searches_here: bool) -> dict[str, CallPolicy]:
    """How each tool is called; a search by its own terms where it goes over the network."""
    t, s = config.tools, config.tools.search
    usual = CallPolicy(n_threads=t.n_threads, deadline_s=t.deadline_s, try_s=t.deadline_s, n_tries=t.n_tries)
    terms = dict.fromkeys(("python", "search", "image_search"), usual)
    if not searches_here:
        try_s = s.try_s or TRY_S[s.backend]
        terms["search"] = CallPolicy(s.n_threads, s.deadline_s, try_s, t.n_tries, calls_per_s=s.calls_per_s)
    return terms


@contextlib.contextmanager
def open_toolbox(
    config, index_paths: Mapping[str, pathlib.Path] | None, enabled: bool | None = None
) -> Iterator[Toolbox]:
    """Sandbox processes and what searches behind one door; all of them are closed on leaving.

    Args:
      index_paths: of the local indices by task set (search_indices.py); read where ``config.tools.search.backend`` is
        local. None where nothing searches.
      enabled: False refuses every call; None follows ``config.tools.enabled``.

    Raises:
      ValueError: a search back-end without its key, its package or its recorded replies; an image index that is none or
        was built with other weights.
      NoneHolds: (a RuntimeError) the sandbox's level does not hold on this host; the message says what to do.
    """
    t, s = config.tools, config.tools.search
    if not (t.enabled if enabled is None else enabled):
        with Toolbox(None, None, enabled=False) as toolbox:
            yield toolbox
        return
    with contextlib.ExitStack() as stack:
        search = pictures = None
        if index_paths is not None and s.backend == "local":
            search = stack.enter_context(open_indices(index_paths))
        elif index_paths is not None:
            search = stack.enter_context(
                open_remote_search(s.backend, url=s.url, cache=s.cache, cache_mode=s.cache_mode)
            )
        if s.image_index:
            pictures = stack.enter_context(_open_pictures(config))
        python = stack.enter_context(
            PythonSandbox(
                n_workers=t.n_workers,
                timeout_s=t.timeout_s,
                memory_mb=t.memory_mb,
                max_output_bytes=t.max_output_bytes,
                level=t.sandbox.level,
                wrapper=t.sandbox.wrapper,
                override=t.sandbox.override,
            )
        )
        toolbox = Toolbox(
            python,
            search,
            top_k=t.top_k,
            n_threads=t.n_threads,
            terms=call_policies(config, s.backend == "local"),
            trajectory_deadline_s=t.trajectory_deadline_s,
            pictures=pictures,
            image_top_k=s.image_top_k,
            sessions=t.sandbox.sessions,
        )
        yield stack.enter_context(toolbox)


def _open_pictures(config) -> ImageIndex:
    from arft_jax.build import image_embedder  # needs JAX, which nothing else here does

    try:
        return ImageIndex(config.tools.search.image_index, image_embedder.make_embedder(config))
    except (ValueError, OSError) as error:
        raise ValueError(f"{error} (config.tools.search.image_index)") from error
