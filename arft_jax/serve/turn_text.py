"""The text of a turn while it is sampled: what may be sent already, and where a stop string ends it."""

import codecs
from collections.abc import Sequence

import numpy as np


class TurnText:
    """Grows by tokens; text that may turn out to be the beginning of a mark is held back.

    Args:
      pieces: bytes of each token id; none for control tokens.
      stops: end the text, which does not hold them.
      hides_from: text from this mark on is never released before the turn has ended; empty: none is.
    """

    def __init__(self, pieces: Sequence[bytes], stops: Sequence[str] = (), hides_from: str = ""):
        self._pieces, self._stops, self._hides_from = pieces, tuple(stops), hides_from
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._n_read, self._n_released = 0, 0
        self.text = ""
        self.cut: int | None = None  # tokens up to the one that completed a stop string

    def read(self, tokens: np.ndarray) -> None:
        """Takes in a turn.

        Args:
          tokens: int32[n], the whole turn so far.
        """
        longest = max((len(stop) for stop in self._stops), default=0)
        for token in tokens[self._n_read :].tolist() if self.cut is None else ():
            self._n_read += 1
            begin = max(len(self.text) - longest, 0)
            self.text += self._decoder.decode(self._pieces[token] if token < len(self._pieces) else b"")
            ends = [at for stop in self._stops if (at := self.text.find(stop, begin)) >= 0]
            if ends:
                self.text, self.cut = self.text[: min(ends)], self._n_read
                return

    def finish(self) -> None:
        """The turn is over: a character that was not completed becomes U+FFFD."""
        if self.cut is None:
            self.text += self._decoder.decode(b"", final=True)

    def release(self, all_of_it: bool = False) -> str:
        """The text that was not released before and may be.

        Args:
          all_of_it: nothing is held back.
        """
        end = len(self.text)
        if not all_of_it:
            marks = [*self._stops, *([self._hides_from] if self._hides_from else ())]
            if self._hides_from and (at := self.text.find(self._hides_from)) >= 0:
                end = at
            end -= max((_held(self.text[:end], mark) for mark in marks), default=0) if self.cut is None else 0
        begin, self._n_released = self._n_released, max(end, self._n_released)
        return self.text[begin : self._n_released]


def _held(text: str, mark: str) -> int:
    """How many characters at the end of a text may begin a mark: 2 for ``ab<t`` and ``<tool>``."""
    return next((n for n in range(min(len(mark) - 1, len(text)), 0, -1) if text.endswith(mark[:n])), 0)
