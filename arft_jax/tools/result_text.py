"""What the policy reads of a search."""

import re
from collections.abc import Sequence

from arft_jax.tools import clean
from arft_jax.tools.search_backend import Hit

NOTHING_FOUND = "Nothing found. Try other words."  # short: a small model reads it too
# A run of "<" is matched whole, whatever follows it: it is read once, and what is left of it cannot become a tag.
_FRAME = re.compile(r"<[<\s/]*+(information\b[^<>]*+>?)?", re.IGNORECASE)


def format_hits(hits: Sequence[Hit], max_result_chars: int) -> str:
    """Words search results for the policy, each cleaned and capped, the frame's own tags taken out.

    >>> format_hits([Hit("Ada", "Born in 1815.", 2.0)], 200)
    '<information> 1. Content: Ada: Born in 1815. </information>'
    """
    lines = []
    for number, hit in enumerate(hits, start=1):
        whole = f"{hit.title}: {hit.text}" if hit.title else hit.text
        text = clean.head(whole, max_result_chars)  # before any pattern: a passage may be a book
        is_cut = len(text) < len(whole)
        text = _without_frame(clean.clean_text(text, len(text) + 1)).strip()
        text = clean.shorten(text, max_result_chars, is_cut)
        lines.append(f"{number}. Content: {' '.join(text.split())}")
    return f"<information> {' '.join(lines) if lines else NOTHING_FOUND} </information>"


def _without_frame(text: str) -> str:
    return _FRAME.sub(lambda found: found[0] if found[1] is None else " ", text)
