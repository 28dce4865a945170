"""A page of made tasks to look at: each picture as it was, as it is shown and as its repair leaves it."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import PIL.Image

from arft_jax.report import page
from arft_jax.trajectory import Image

THUMBNAIL_PX = 240
_STYLE = """
article { border: 1px solid var(--line); background: var(--box); padding: .8rem; margin: .8rem 0; }
.row { display: flex; flex-wrap: wrap; gap: 1rem; } figure { margin: 0; } figcaption { color: var(--dim); }
"""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One task.

    Args:
      heading: what it is of, in a few words.
      question, answers: its own.
      images: by what they are.
    """

    heading: str
    question: str
    answers: tuple[str, ...]
    images: dict[str, Image]


def thumbnail(image: Image) -> Image:
    """The image, its longer side at most THUMBNAIL_PX."""
    picture = PIL.Image.fromarray(np.ascontiguousarray(image.pixels))
    picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    return Image(np.asarray(picture), image.name)


def write(path, title: str, summary: Sequence[str], entries: Sequence[Entry]) -> None:
    """Writes the page, all images inside it.

    Args:
      path: of the file.
      title: of the page.
      summary: lines below the title.
      entries: tasks, with thumbnails.
    """
    head = "".join(f"<p>{page.text(line)}</p>" for line in summary)
    body = []
    for entry in entries:
        shown = "".join(page.figure(Image(image.pixels, name)) for name, image in entry.images.items())
        body.append(
            f'<article><p class="dim">{page.text(entry.heading)}</p><h2>{page.text(entry.question)}</h2>'
            f'<p>answer: <b>{page.text(" | ".join(entry.answers))}</b></p><div class="row">{shown}</div></article>'
        )
    page.write(path, page.frame(title, f"<h1>{page.text(title)}</h1>{head}{''.join(body)}", _STYLE))
