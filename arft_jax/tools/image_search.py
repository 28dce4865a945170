"""The tool that searches captioned pictures: by one of the trajectory's images, or by words in the captions.

A query that is the name of an image, as ``image_2``, looks for pictures like it; other words are looked for in the
captions. Pictures come into the trajectory under the next names, with their captions as text.
"""

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from arft_jax.syntax.spec import ToolSpec
from arft_jax.tools.bank import PREFIX, ImageBank, Refused
from arft_jax.tools.context import ToolContext
from arft_jax.tools.image_index import ImageIndex
from arft_jax.tools.record import Job, Tool, ToolHost
from arft_jax.tools.result_text import format_hits
from arft_jax.tools.search_backend import Hit
from arft_jax.tools.search_tool import MAX_RESULT_CHARS, read_query
from arft_jax.trajectory import Image, Observation, ToolStatus

_NAME = re.compile(rf"\s*{PREFIX}[0-9]+\s*", re.ASCII)


def is_image_query(query: str) -> bool:
    """Whether a search is for pictures like one of the trajectory's.

    >>> is_image_query(" image_2 "), is_image_query("image_2 by night")
    (True, False)
    """
    return _NAME.fullmatch(query) is not None


def find_images(
    index: ImageIndex, query: str, images: Iterable[Image], top_k: int, max_result_chars: int
) -> Observation:
    """The best pictures and their captions.

    Args:
      index: by image only where it was opened with an embedder.
      query: the name of one of ``images``, or words.
      images: of the trajectory, in order of arrival.
      top_k: pictures at most.
      max_result_chars: cap on each caption.

    Returns:
      The captions, each behind the name that its picture will have; pictures that cannot be shown (gone, spoilt, no
      more room) are left out. An error where there is no image of that name.
    """
    bank = ImageBank(images)
    if is_image_query(query):
        try:
            asked = bank.get(query.strip())
        except Refused as error:
            return Observation(str(error), (), ToolStatus.ERROR)
        hits = index.search(asked, top_k)
    else:
        hits = index.search_text(query, top_k)
    shown, found = [], []
    for hit in hits:
        try:
            found.append(bank.add(index.load(hit)))
        except (ValueError, Refused):
            continue
        shown.append(Hit(found[-1].name, hit.caption, hit.score))
    return Observation(format_hits(shown, max_result_chars), tuple(found))


class ImageSearchService:
    """Finds captioned pictures.

    Args:
      index: its owner closes it.
      top_k: pictures shown.
      max_result_chars: cap on each caption.
    """

    def __init__(self, index: ImageIndex, top_k: int, max_result_chars: int = MAX_RESULT_CHARS):
        for name, value in (("image_top_k", top_k), ("max_result_chars", max_result_chars)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1: got {value}")
        self._index, self._top_k, self._max_result_chars = index, top_k, max_result_chars

    def begin(self, arguments: Mapping[str, Any], context: ToolContext) -> Job:
        """See :class:`arft_jax.tools.record.Service`."""
        query, images = arguments["query"], tuple(context.images)
        return Job(lambda call: find_images(self._index, query, images, self._top_k, self._max_result_chars))


@contextlib.contextmanager
def _open(host: ToolHost) -> Iterator[ImageSearchService]:
    with host.open_pictures() as index:
        yield ImageSearchService(index, host.settings["search"]["image_top_k"])


def _lacks(host: ToolHost) -> str:
    return "" if host.open_pictures else "image_search needs an index of pictures (config.tools.search.image_index)"


IMAGE_SEARCH = Tool(
    ToolSpec(
        name="image_search",
        description="Searches pictures with captions; the best ones are shown with their captions.",
        parameters={
            "type": "object",
            "properties": {
                "query": {
                    "type": "string",
                    "description": "The name of a picture that was shown, as image_1, to find pictures like it; or "
                    "words, to find them in the captions.",
                }
            },
            "required": ["query"],
        },
        tag="image_search",
        line="<image_search>image_1</image_search> finds pictures like the first one that was shown to you, and so on "
        "by their order; words find pictures with such captions. The best ones are shown with their captions between "
        "<information> and </information>.",
        read_body=read_query,
        kinds=("search", "general"),
    ),
    _open,
    _lacks,
)
