"""What every search engine looks like from outside, local or remote."""

import dataclasses
from typing import Protocol


@dataclasses.dataclass(frozen=True)
class Hit:
    """Something found; a higher ``score`` (its unit is the back-end's) is a better match.

    ``source`` says where it comes from: the passage's id in a local index, the URL of a remote one; may be empty.
    """

    title: str
    text: str
    score: float
    source: str = ""


class SearchBackend(Protocol):
    """Answers queries; called from several threads at once."""

    def search(self, query: str, top_k: int, corpus: str = "") -> list[Hit]:
        """Finds what matches, best first.

        Args:
          query: any text.
          top_k: at most so many hits, at least 1.
          corpus: only this collection; empty: all. A back-end without collections raises for a name.
        """
        ...
