"""From a config to the tools of a run: which there are, and how they are opened."""

import contextlib
import functools
import pathlib
from collections.abc import Iterable, Iterator, Mapping

from arft_jax.config import JSONL, SEARCHING_TASKS
from arft_jax.data import chat_template
from arft_jax.data.images import ImageProcessor
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.io.import_path import load_object
from arft_jax.tools.bundled import BUNDLED
from arft_jax.tools.guest import make_tool
from arft_jax.tools.image_index import ImageIndex
from arft_jax.tools.offer import Offer, make_offer
from arft_jax.tools.record import ToolHost
from arft_jax.tools.toolbox import Toolbox, open_tools
from arft_jax.trajectory import Task


def tool_host(
    config,
    indices: Mapping[str, pathlib.Path] | None,
    processor: ImageProcessor | None = None,
    boxes: str = "permille",
) -> ToolHost:
    """What the tools are opened with.

    Args:
      config: of the run.
      indices: of the texts that task sets search (search_indices.py); None where none does.
      processor: of the model, for boxes in pixels of the resized image.
      boxes: the units in which the model writes boxes, where ``config.tools.crop_frame`` names none.
    """
    settings = config.tools.to_dict() | {"crop_frame": config.tools.crop_frame or boxes}
    pictures = functools.partial(_open_pictures, config) if config.tools.search.image_index else None
    return ToolHost(settings, indices, pictures, processor)


def kinds_of(config, tasks: Iterable[Task] = ()) -> set[str]:
    """The kinds of the tasks of a run: those of the bundled sets by their names, of the user's own by the tasks."""
    bundled = [name for name in config.data.tasks if not name.startswith(JSONL)]
    own = {task.kind for task in tasks} or ({"general"} if len(bundled) < len(config.data.tasks) else set())
    return {"search" if name in SEARCHING_TASKS else "coding" for name in bundled} | own


def plan_offer(config, host: ToolHost, kinds: Iterable[str], asked: Iterable[str] = ()) -> Offer:
    """The tools of a run and their syntax; opens nothing.

    Args:
      config: of the run.
      host: of :func:`tool_host`.
      kinds: of the run's tasks.
      asked: names of tools that tasks ask for.

    Raises:
      ValueError: an import path that gives no tool, an unknown name, a tool that lacks what it needs.
    """
    t = config.tools
    extra = [make_tool(load_object(path, "config.tools.extra"), path) for path in t.extra]
    return make_offer(BUNDLED, extra, host, names=tuple(t.offer), kinds=kinds, asked=asked, syntax=t.syntax)


def check_template(config, tokenizer: Tokenizer, offer: Offer) -> None:
    """Refuses weights whose chat template does not write tools as the policy would be trained to.

    Args:
      config: of the run; ``config.chat_template`` switches the check off.
      tokenizer: of the policy.
      offer: of :func:`plan_offer`; a policy without tools may have any template.

    Raises:
      ValueError: a template that leaves tools out or writes them in other words.
    """
    directory = config.tokenizer or config.weights
    if offer.syntax.name == "hermes" and offer.tools and directory and config.chat_template != "hermes":
        if template := chat_template.read_template(directory):
            chat_template.check_tools(template, tokenizer, directory)


@contextlib.contextmanager
def open_toolbox(config, offer: Offer, host: ToolHost, enabled: bool | None = None) -> Iterator[Toolbox]:
    """The tools, open; all of them are closed on leaving.

    Args:
      config: of the run.
      offer: of :func:`plan_offer`.
      host: of :func:`tool_host`.
      enabled: False refuses every call; None follows ``config.tools.enabled``.

    Raises:
      ValueError: a search back-end without its key, its package or its recorded replies; an image index that is none or
        was built with other weights.
      NoneHolds: (a RuntimeError) the sandbox's level does not hold on this host; the message says what to do.
    """
    enabled = config.tools.enabled if enabled is None else enabled
    with open_tools(offer, host, enabled=enabled, trajectory_deadline_s=config.tools.trajectory_deadline_s) as toolbox:
        yield toolbox


def _open_pictures(config) -> ImageIndex:
    from arft_jax.build import image_embedder  # needs JAX, which nothing else here does

    try:
        return ImageIndex(config.tools.search.image_index, image_embedder.make_embedder(config))
    except (ValueError, OSError) as error:
        raise ValueError(f"{error} (config.tools.search.image_index)") from error
