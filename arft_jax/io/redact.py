"""Takes secrets out of what is on its way to a log, a tracker, a dump or a trajectory."""

import os
import re
import urllib.parse
from collections.abc import Mapping
from typing import Any

REDACTED = "[redacted]"

_SECRET_NAME = re.compile(
    r"(?<![^_-])(?=[ktspc])(?:key|token|secret|password|passwd|credentials?)(?![^_-])", re.IGNORECASE
)
_MIN_SECRET_CHARS = 6  # a shorter value would blank ordinary words
_USER_INFO = re.compile(r"(?<=://)[^/\s@]++(?=@)")
_NAMED = re.compile(
    r"(?=[asp][ucpea][tics])"  # most places are passed over after three characters
    r"((?<!\w)authorization|api[-_]?key|access[-_]?token|secret|password)"
    r"([\"']?\s*+[=:]\s*+[\"']?)(?:(?:bearer|basic)\s++)?[^\s\"'&,;)}\]]++",
    re.IGNORECASE,
)
_WELL_KNOWN = re.compile(r"(?=[shgx])\b(?:sk|hf|ghp|gho|ghs|github_pat|glpat|xox[abpr])[-_][A-Za-z0-9_-]{16,}+")


def _secrets(environ: Mapping[str, str]) -> list[str]:
    """Values of variables that are named like secrets, as they may stand in a text, the longest first."""
    values = {v.strip() for name, v in environ.items() if _SECRET_NAME.search(name)}
    values = {v for v in values if len(v) >= _MIN_SECRET_CHARS}
    return sorted(values | {urllib.parse.quote(v, safe="") for v in values}, key=len, reverse=True)


def redact(text: str, environ: Mapping[str, str] | None = None) -> str:
    """Blanks every secret of the environment, and what looks like one by its name or its form.

    >>> redact("POST https://me:pw@host/x?api_key=abc failed", {})
    'POST https://[redacted]@host/x?api_key=[redacted] failed'
    >>> redact("refused: s3cret-value", {"SOME_API_KEY": "s3cret-value"})
    'refused: [redacted]'

    Args:
      text: anything.
      environ: where secrets are kept; None: the process's environment as it is now.
    """
    for secret in _secrets(os.environ if environ is None else environ):
        text = text.replace(secret, REDACTED)
    text = _USER_INFO.sub(REDACTED, text)
    text = _NAMED.sub(lambda m: m[1] + m[2] + REDACTED, text)
    return _WELL_KNOWN.sub(REDACTED, text)


def redact_tree(tree: Any, environ: Mapping[str, str] | None = None) -> Any:
    """A config dump or any other tree of dicts, lists and texts with :func:`redact` applied to every text.

    A text under a key that is named like a secret is blanked whole, whatever it says.

    >>> redact_tree({"api_key": "x", "max_tokens": 5, "urls": ["ftp://a:b@c"]}, {})
    {'api_key': '[redacted]', 'max_tokens': 5, 'urls': ['ftp://[redacted]@c']}
    """
    if isinstance(tree, str):
        return redact(tree, environ)
    if isinstance(tree, Mapping):
        return {
            key: REDACTED
            if isinstance(value, str) and value and _SECRET_NAME.search(str(key))
            else redact_tree(value, environ)
            for key, value in tree.items()
        }
    if isinstance(tree, list | tuple):
        return type(tree)(redact_tree(value, environ) for value in tree)
    return tree
