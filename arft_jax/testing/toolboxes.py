"""A toolbox of the bundled tools around back-ends that a test has opened itself."""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from arft_jax.build import tools as build_tools
from arft_jax.protocol import Malformed, ToolCall
from arft_jax.syntax.tags import TagSyntax
from arft_jax.tools.bundled import BUNDLED, paper_syntax
from arft_jax.tools.context import ToolContext
from arft_jax.tools.crop_tool import CropService
from arft_jax.tools.diagnose import DiagnoseService
from arft_jax.tools.image_index import ImageIndex
from arft_jax.tools.image_search import ImageSearchService
from arft_jax.tools.offer import Offer
from arft_jax.tools.python_tool import PythonService
from arft_jax.tools.record import CallPolicy
from arft_jax.tools.sandbox import PythonSandbox
from arft_jax.tools.search_backend import SearchBackend
from arft_jax.tools.search_tool import SearchService
from arft_jax.tools.toolbox import Toolbox
from arft_jax.trajectory import Image, Observation, Task, Turn


def make_toolbox(
    python: PythonSandbox | None = None,
    search: SearchBackend | None = None,
    *,
    pictures: ImageIndex | None = None,
    top_k: int = 4,
    image_top_k: int = 1,
    max_result_chars: int = 1000,
    sessions: bool = False,
    names: tuple[str, ...] = (),
    policies: Mapping[str, CallPolicy] | None = None,
    n_threads: int = 4,
    deadline_s: float = 120.0,
    **options: Any,
) -> Toolbox:
    """The bundled tools whose back-ends are given, called in the usual way unless a policy says otherwise.

    Args:
      python, search, pictures: back-ends; None: calls of that tool are refused.
      top_k, image_top_k, max_result_chars, sessions: of the services.
      names: of the tools that every task is offered; empty: by its kind.
      policies: of some tools, by name.
      n_threads, deadline_s: of the others.
      **options: keyword arguments of Toolbox.
    """
    services = {"diagnose": DiagnoseService(), "crop": CropService("permille")}
    if python is not None:
        services["python"] = PythonService(python, sessions)
    if search is not None:
        services["search"] = SearchService(search, top_k, max_result_chars)
    if pictures is not None:
        services["image_search"] = ImageSearchService(pictures, image_top_k, max_result_chars)
    usual = CallPolicy(n_threads=n_threads, deadline_s=deadline_s, try_s=deadline_s)
    offer = Offer(BUNDLED, names, TagSyntax([tool.spec for tool in BUNDLED.values()]))
    return Toolbox(offer, services, dict.fromkeys(services, usual) | dict(policies or {}), **options)


@contextlib.contextmanager
def open_configured(
    config, kinds: Iterable[str], indices: Mapping[str, Any] | None = None, enabled: bool | None = None
) -> Iterator[Toolbox]:
    """The tools of a run as its config says.

    Args:
      config: of the run.
      kinds: of its tasks.
      indices: of texts to search, by task set; None: there are none.
      enabled: see :func:`arft_jax.build.tools.open_toolbox`.
    """
    host = build_tools.tool_host(config, indices)
    with build_tools.open_toolbox(config, build_tools.plan_offer(config, host, kinds), host, enabled) as toolbox:
        yield toolbox


def turn_of(text: str, start: int = 0, end: int = 0, observation: Observation | None = None) -> Turn:
    """A turn as the paper's syntax reads it."""
    syntax = paper_syntax()
    action = syntax.parse(text)
    in_form = not isinstance(action, Malformed) and syntax.is_well_formed(text)
    return Turn(text, action, start, end, observation, in_form)


def search_call(query: str) -> ToolCall:
    """A search for texts."""
    return ToolCall("search", {"query": query})


def code_call(source: str) -> ToolCall:
    """A call of Python."""
    return ToolCall("python", {"code": source})


def problem_call(*kinds: str) -> ToolCall:
    """A diagnosis."""
    return ToolCall("diagnose", {"problems": list(kinds)})


def context_of(task: Task, images: Sequence[Image], spent_s: float = 0.0) -> ToolContext:
    """The context of a trajectory that has seen these images and whose tools have taken so many seconds."""
    context = ToolContext(dataclasses.replace(task, images=tuple(images)))
    context.admit(Observation("", seconds=spent_s))
    return context
