"""Image search as the policy uses it: which searches mean an image, and how what was found is shown.

``<search>image_2</search>`` looks for pictures like the second image of the trajectory. Other words are looked for in
the captions, where no texts can be searched. Pictures come into the trajectory under the next names, with their
captions as text.
"""

import re
from collections.abc import Iterable

from arft_jax.tools.bank import PREFIX, ImageBank, Refused
from arft_jax.tools.image_index import ImageIndex
from arft_jax.tools.result_text import format_hits
from arft_jax.tools.search_backend import Hit
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
