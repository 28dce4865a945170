"""One client's wait for its request: events from the playing thread to the loop that serves HTTP."""

import asyncio
from collections.abc import Sequence

import numpy as np

from arft_jax.rollout.row import Row
from arft_jax.serve.replies import Replies, told_of
from arft_jax.serve.turn_text import TurnText
from arft_jax.trajectory import Trajectory


class Waiting:
    """The listener of a request.

    Events in ``queue``: ``("begun",)`` with the first token; where the client streams
    ``("text", row, text, tokens int32[n], logps float32[n])``, of an agent ``("thought", row, text)``; then
    ``("ended", rows)`` or ``("failed", error)``.

    Args:
      loop: of the server.
      replies: of the request.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, replies: Replies):
        self._loop, self._replies = loop, replies
        self.queue: asyncio.Queue[tuple] = asyncio.Queue()
        self._streams = replies.asked.chat.stream
        self._watches = self._streams or bool(replies.asked.chat.stop)
        self._texts: dict[int, TurnText] = {}
        self._n_told: dict[int, int] = {}  # tokens of a row's turn; of an agent its turns
        self.is_begun = False

    def _put(self, *event) -> None:
        try:
            self._loop.call_soon_threadsafe(self.queue.put_nowait, event)
        except RuntimeError:  # the loop has ended, and with it whoever waited
            pass

    def grown(self, row: Row) -> int | None:
        """See :class:`arft_jax.rollout.service.Listener`."""
        if not self.is_begun:
            self.is_begun = True
            self._put("begun")
        if not self._watches:
            return None
        if self._replies.asked.kind:
            self._tell_turns(row)
            return None
        text = self._texts.setdefault(row.row, self._replies.turn_text())
        tokens = row.turn_tokens
        text.read(tokens)
        if self._streams:
            n = self._n_told.get(row.row, 0)
            end = len(tokens) if text.cut is None else text.cut
            self._n_told[row.row] = end
            self._put("text", row.row, text.release(), tokens[n:end], row.turn_logps[n:end])
        return text.cut

    def _tell_turns(self, row: Row) -> None:
        n = self._n_told.get(row.row, 0)
        for turn in row.turns[n:]:
            self._put("thought", row.row, told_of(turn) + "\n")
        self._n_told[row.row] = len(row.turns)

    def rest(self, row: Trajectory) -> tuple[str, np.ndarray, np.ndarray]:
        """What of a turn was not told: its text, its tokens and their log-probs."""
        text = self._texts.get(row.row) or self._replies.turn_text()
        text.read(row.tokens[row.prompt_len :])
        text.finish()
        sampled = np.flatnonzero(row.loss_mask)[self._n_told.get(row.row, 0) :]
        return text.release(all_of_it=True), row.tokens[sampled], row.sampler_logps[sampled]

    def n_turns_told(self, row: int) -> int:
        """Turns of an agent that were told."""
        return self._n_told.get(row, 0)

    def ended(self, rows: Sequence[Trajectory]) -> None:
        """See :class:`arft_jax.rollout.service.Listener`."""
        self._put("ended", list(rows))

    def failed(self, error: Exception) -> None:
        """See :class:`arft_jax.rollout.service.Listener`."""
        self._put("failed", error)
