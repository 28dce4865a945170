r"""What is told on a terminal, in a log or in a warning: text from outside never reaches the terminal as a command.

A terminal takes control characters for orders: to move the cursor, to set its title, to answer as if the user had
typed. Turns of a policy, replies of tools, items of data and names of files can hold any of them. They are shown as
Python writes them in a string, ``\x1b``, with the marks that turn the order of writing and lone surrogates, which would
stop ``print`` itself.
"""

import logging
import re
import sys
import traceback
import types
import warnings
from typing import Any, TextIO

# Control characters but newline and tab; marks of the order of writing; line ends that no terminal knows; lone
# surrogates; notes between lines; tags. Joiners stay: scripts and emoji are written with them.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ud800-\udfff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    r"""The text with every character that commands a terminal written out; newlines and tabs stay.

    >>> visible("\x1b]0;title\x07 a\tb\r\nc \u202e")
    '\\x1b]0;title\\x07 a\tb\nc \\u202e'
    """
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text.replace("\r\n", "\n"))


def say(text: object, file: TextIO | None = None) -> None:
    """Prints what :func:`visible` leaves of a text; the only place of the package that prints.

    Args:
      text: anything that has a ``str``.
      file: standard output where None.
    """
    print(visible(str(text)), file=file or sys.stdout, flush=True)


class _VisibleRecord(logging.LogRecord):
    """A line of the log, whoever formats it, with the traceback that belongs to it."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.exc_info and self.exc_info[0]:
            self.exc_text = visible("".join(traceback.format_exception(*self.exc_info)).rstrip("\n"))

    def getMessage(self) -> str:
        return visible(super().getMessage())


def guard() -> None:
    """Makes visible what Python itself writes for this process: the log, warnings, the traceback of an uncaught error.

    Safe to repeat. A hook that someone else has set stays.
    """
    if logging.getLogRecordFactory() is logging.LogRecord:
        logging.setLogRecordFactory(_VisibleRecord)
    if warnings.formatwarning is _FORMAT_WARNING:
        warnings.formatwarning = _format_warning
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _tell_uncaught


_FORMAT_WARNING = warnings.formatwarning


def _format_warning(*args: Any, **kwargs: Any) -> str:
    return visible(_FORMAT_WARNING(*args, **kwargs))


def _tell_uncaught(kind: type[BaseException], error: BaseException, trace: types.TracebackType | None) -> None:
    say("".join(traceback.format_exception(kind, error, trace)).rstrip("\n"), sys.stderr)
