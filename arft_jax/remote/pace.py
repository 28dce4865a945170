"""How fast requests go out: so many a minute, so many tokens a minute, and not before a server wants to be asked."""

import asyncio
import time
from collections.abc import Awaitable, Callable

_FIRST_GUESS = 1000  # tokens of a request before any was answered


class Pace:
    """Gives out turns to send; used by one event loop at a time.

    Requests are spaced evenly. Of tokens a turn takes as many as requests took on average, corrected when its own
    number is known.

    Args:
      requests_per_min, tokens_per_min: 0: no limit.
      clock, sleep: of the event loop.
    """

    def __init__(
        self,
        requests_per_min: float = 0.0,
        tokens_per_min: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ):
        self._gap_s = 60.0 / requests_per_min if requests_per_min else 0.0
        self._token_s = 60.0 / tokens_per_min if tokens_per_min else 0.0
        self._clock, self._sleep = clock, sleep
        self._request_at = self._tokens_at = self._open_at = -float("inf")
        self._n_known, self._known = 0, 0

    async def turn(self) -> float:
        """Waits for a turn; returns the tokens that it was given, for :meth:`took`."""
        while (wait := max(self._request_at, self._tokens_at, self._open_at) - self._clock()) > 0:
            await self._sleep(wait)
        now, guess = self._clock(), self._known / self._n_known if self._n_known else _FIRST_GUESS
        self._request_at = now + self._gap_s
        self._tokens_at = max(self._tokens_at, now) + guess * self._token_s
        return guess

    def took(self, guess: float, tokens: int | None) -> None:
        """A request is over.

        Args:
          guess: what :meth:`turn` returned.
          tokens: that it took; None: not known, so that the guess stands.
        """
        if tokens is not None:
            self._n_known, self._known = self._n_known + 1, self._known + tokens
            self._tokens_at += (tokens - guess) * self._token_s

    def pause(self, seconds: float) -> None:
        """No turn for so long: the server has asked for it."""
        self._open_at = max(self._open_at, self._clock() + seconds)
