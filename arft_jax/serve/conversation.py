"""Messages of a client -> the token stream of the trajectory that says the same.

What the server has sampled is remembered a while, so that a turn that comes back in a later request has the ids that
were sampled and not those of its text encoded again, which may differ: the policy meets its own trajectory.
"""

import collections
import hashlib
import threading
from collections.abc import Sequence

import numpy as np

from arft_jax.data.chat import Said
from arft_jax.protocol import ToolCall
from arft_jax.serve.requests import BadRequest, Message
from arft_jax.syntax.hermes import HermesSyntax
from arft_jax.syntax.spec import ToolSpec
from arft_jax.trajectory import Image

MAX_REMEMBERED = 1 << 20  # tokens


class Memory:
    """Ids of the turns that were sampled, by what stood before them and their text; the oldest go first.

    Args:
      max_tokens: that are kept.
    """

    def __init__(self, max_tokens: int = MAX_REMEMBERED):
        self._ids: collections.OrderedDict[tuple[str, str], np.ndarray] = collections.OrderedDict()
        self._calls: collections.OrderedDict[str, str] = collections.OrderedDict()
        self._max_tokens, self._n_tokens, self._lock = max_tokens, 0, threading.Lock()

    def keep(self, before: str, text: str, ids: np.ndarray, call: str = "") -> None:
        """Remembers a turn.

        Args:
          before: of :class:`Conversation`, for what stands before it.
          text: of the turn.
          ids: int32[n], without the end token.
          call: id of the call in it, by which a client refers to the turn.
        """
        with self._lock:
            for shown in dict.fromkeys((text, text.rstrip())):  # clients cut what their last token holds behind a tag
                self._n_tokens += len(ids) - len(self._ids.pop((before, shown), ()))
                self._ids[before, shown] = ids
            if call:
                self._calls[call] = text
            while self._n_tokens > self._max_tokens:
                self._n_tokens -= len(self._ids.popitem(last=False)[1])
            while len(self._calls) > len(self._ids):
                self._calls.popitem(last=False)

    def ids(self, before: str, text: str) -> np.ndarray | None:
        """The ids of a turn that was sampled there; None: it is not known."""
        with self._lock:
            return self._ids.get((before, text))

    def text_of(self, call: str) -> str | None:
        """The turn in which a call was made."""
        with self._lock:
            return self._calls.get(call)


class Conversation:
    """Messages as they are encoded.

    Args:
      messages: of the client.
      tools: that the client runs; the system turn describes them.
      memory: of turns that were sampled here.

    Raises:
      BadRequest: a call that the syntax cannot write.
    """

    def __init__(self, messages: Sequence[Message], tools: Sequence[ToolSpec], memory: Memory):
        try:
            self.syntax = HermesSyntax(tools)
        except ValueError as error:
            raise BadRequest(str(error).partition(" (config")[0], "tools") from None
        self._memory, self._digest = memory, hashlib.sha256()
        self.said: list[Said] = []
        system = messages[0].text if messages[0].role == "system" else ""
        if system or tools:
            self._add("system", [self.syntax.system(system, tuple(tools))])
        rest = messages[1:] if messages[0].role == "system" else messages
        for place, message in enumerate(rest):
            if message.role == "assistant":
                self._add_turn(message)
            elif message.role == "tool":
                follows = place > 0 and rest[place - 1].role == "tool"
                self._add_reply(message, follows)
            else:
                self._add("user", message.parts)

    @property
    def before(self) -> str:
        """What stands here so far, as a hash: a key of :class:`Memory`."""
        return self._digest.hexdigest()

    def _add(self, role: str, parts: Sequence[str | Image | np.ndarray]) -> None:
        self.said.append(Said(role, tuple(parts)))
        self._digest.update(f"\0{role}".encode())
        for part in parts:
            if isinstance(part, Image):
                self._digest.update(b"\1" + part.sha256.encode())
            elif isinstance(part, np.ndarray):
                self._digest.update(b"\2" + part.tobytes())
            else:
                self._digest.update(b"\3" + part.encode("utf-8", "replace"))

    def _add_turn(self, message: Message) -> None:
        text = message.text
        if message.calls:
            text = self._memory.text_of(message.calls[0][0]) or self._write(message)
        ids = self._memory.ids(self.before, text)
        self._add("assistant", [text if ids is None else ids])

    def _write(self, message: Message) -> str:
        lines = [message.text] if message.text else []
        for _, name, arguments in message.calls:
            try:
                lines.append(self.syntax.write(ToolCall(name, dict(arguments))))
            except ValueError as error:
                raise BadRequest(f"tool_calls: {error}", "messages") from None
        return "\n".join(lines)

    def _add_reply(self, message: Message, follows: bool) -> None:
        before, behind = self.syntax.reply(message.text)
        parts = [before, *message.images, behind]
        if follows:  # replies to several calls of one turn share a user turn, as chat templates have it
            parts = [*self.said.pop().parts, "\n", *parts]
        self._add("user", parts)
