"""Makes text that came from outside safe to show: to a tokenizer, a terminal and a page."""

import re

CUT = " [cut]"
_READ_PER_SHOWN, _READ_MORE = 8, 1000

# Every run is possessive: what follows it never begins with what it holds, so nothing is read twice.
_ANSI = re.compile(
    r"\x1b(?:"
    r"\[[0-?]*+[ -/]*+[@-~]?"  # control sequences: colours, cursor
    r"|[\]PX^_][^\x07\x1b]*+(?:\x1b(?!\\)[^\x07\x1b]*+)*+(?:\x07|\x1b\\|\Z)"  # commands, to their terminator
    r"|[ -/]*+[0-~]"  # two-character escapes
    r")"
)
_ASCII_CONTROL = dict.fromkeys([*range(9), *range(11, 32), 127])
# Unicode's categories Cc, Cf and Cs but for newline and tab: controls; bidi, zero-width and tag characters; lone
# surrogates. A class of ranges, as to look up the category of every character takes ten times as long.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f"
    "\u202a-\u202e\u2060-\u2064\u2066-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb\U000110bd\U000110cd"
    "\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001\U000e0020-\U000e007f]+"
)


def clean_text(text: str, max_chars: int) -> str:
    r"""Strips what a reader cannot see and cuts what is left to ``max_chars``.

    Gone are ANSI escapes, NUL and other control characters (newline and tab stay; every kind of line end
    becomes ``\n``), bidi marks, zero-width and tag characters, and lone surrogates. White space at both
    ends goes too. What is read at all is capped first (:func:`head`). Control words of a chat format are
    ordinary text here: the tokenizer keeps those apart.

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
    whole, text = text, head(text, max_chars)
    is_cut = len(text) < len(whole)
    text = _ANSI.sub("", text)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if text.isascii():
        text = text.translate(_ASCII_CONTROL)
    else:
        text = text.replace("\u2028", "\n").replace("\u2029", "\n")
        text = _UNSEEN.sub("", text)
    return shorten(text.strip(), max_chars, is_cut)


def head(text: str, max_chars: int) -> str:
    """As much of a text's beginning as is read where ``max_chars`` of it will be shown: eight times that, and 1000.

    No pattern runs on more, however long a passage is; the rest is room for what cleaning takes out.
    """
    return text[: _READ_PER_SHOWN * max_chars + _READ_MORE]


def shorten(text: str, max_chars: int, is_cut: bool = False) -> str:
    """The text within ``max_chars``, with the marker where something is missing; ``is_cut``: it is already."""
    if len(text) <= max_chars and not is_cut:
        return text
    if max_chars <= len(CUT):
        return text[:max_chars]
    return text[: max_chars - len(CUT)].rstrip() + CUT
