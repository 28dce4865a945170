"""What the policy reads of a search."""

import re
from collections.abc import Sequence

from arft_jax.tools import clean
from arft_jax.tools.search_backend import Hit

NOTHING_FOUND = "Nothing found. Try other words."  # short: a small model reads it too
_FRAME = re.compile(r"<\s*/?\s*information\b[^<>]*>?", re.IGNORECASE)


def format_hits(hits: Sequence[Hit], max_result_chars: int) -> str:
    """Words search results for the policy, each cleaned and capped, the frame's own tags taken out.

    >>> format_hits([Hit("Ada", "Born in 1815.", 2.0)], 200)
    '<information> 1. Content: Ada: Born in 1815. </information>'
    """
    lines = []
    for number, hit in enumerate(hits, start=1):
        both = f"{hit.title}: {hit.text}" if hit.title else hit.text
        text = clean.clean_text(_FRAME.sub(" ", clean.clean_text(both, len(both) + 1)), max_result_chars)
        lines.append(f"{number}. Content: {' '.join(text.split())}")
    return f"<information> {' '.join(lines) if lines else NOTHING_FOUND} </information>"
