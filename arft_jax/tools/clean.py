"""Makes text that came from outside safe to show: to a tokenizer, a terminal and a page."""

import re
import unicodedata

CUT = " [cut]"

_ANSI = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # control sequences: colours, cursor
    r"|\x1b[\]PX^_].*?(?:\x07|\x1b\\|\Z)"  # operating-system commands and strings, to their terminator
    r"|\x1b[ -/]*[0-~]",  # two-character escapes
    re.DOTALL,
)
_ASCII_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_DROPPED = frozenset({"Cc", "Cf", "Cs"})  # controls; bidi, zero-width and tag characters; lone surrogates


def _keeps(char: str) -> bool:
    return char in "\n\t" or unicodedata.category(char) not in _DROPPED


def clean_text(text: str, max_chars: int) -> str:
    r"""Strips what a reader cannot see and cuts what is left to ``max_chars``.

    Gone are ANSI escapes, NUL and other control characters (newline and tab stay; every kind of line end
    becomes ``\n``), bidi marks, zero-width and tag characters, and lone surrogates. White space at both
    ends goes too. Control words of a chat format are ordinary text here: the tokenizer keeps those apart.

    >>> clean_text("\x1b[31mred\x1b[0m\u202e \x00end\r\n", 80)
    'red end'
    >>> clean_text("abcdefghijkl", 10)
    'abcd [cut]'

    Args:
      text: anything.
      max_chars: inclusive cap in characters, the marker counted.

    Raises:
      ValueError: if ``max_chars`` is below 1.
    """
    if max_chars < 1:
        raise ValueError(f"max_chars must be at least 1: got {max_chars}")
    text = _ANSI.sub("", text)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if text.isascii():
        text = _ASCII_CONTROL.sub("", text)
    else:
        text = text.replace("\u2028", "\n").replace("\u2029", "\n")
        text = "".join(filter(_keeps, text))
    text = text.strip()
    if len(text) <= max_chars:
        return text
    if max_chars <= len(CUT):
        return text[:max_chars]
    return text[: max_chars - len(CUT)].rstrip() + CUT
