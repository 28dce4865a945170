"""What a client is told: objects of OpenAI's chat completions, whole or in chunks."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from arft_jax.protocol import ToolCall
from arft_jax.serve.door import Asked
from arft_jax.serve.turn_text import TurnText
from arft_jax.syntax.hermes import OPEN, HermesSyntax
from arft_jax.trajectory import Status, Trajectory

_CUT = (Status.TOKENS, Status.TURN_TOKENS, Status.IMAGES)


class Replies:
    """The replies to one request.

    Args:
      asked: the request.
      identity: ``chatcmpl-...``.
      created: Unix time, seconds.
      model: its name, for the client.
      pieces: bytes of each token id; none for control tokens.
    """

    def __init__(self, asked: Asked, identity: str, created: int, model: str, pieces: Sequence[bytes]):
        self.asked, self._pieces = asked, pieces
        self.identity = identity
        self._head = {"id": identity, "created": created, "model": model}

    def call_id(self, row: int) -> str:
        """The id of the call that the row of this number makes."""
        return f"call_{self.identity.removeprefix('chatcmpl-')[:20]}{row}"

    def turn_text(self) -> TurnText:
        """Reads a turn of this request."""
        chat = self.asked.chat
        return TurnText(self._pieces, chat.stop, OPEN if chat.tools else "")

    def usage(self, rows: Sequence[Trajectory]) -> dict[str, Any]:
        """Tokens of the prompt, of an agent's observations too, and those that were sampled."""
        n_sampled = sum(int(row.loss_mask.sum()) for row in rows)
        n_prompt = len(self.asked.prompt.tokens) + sum(int(row.observation_mask.sum()) for row in rows)
        return {"prompt_tokens": n_prompt, "completion_tokens": n_sampled, "total_tokens": n_prompt + n_sampled}

    def completion(self, rows: Sequence[Trajectory]) -> dict[str, Any]:
        """The whole reply."""
        choices = [self.choice(row) for row in rows]
        whole = self._head | {"object": "chat.completion", "choices": choices, "usage": self.usage(rows)}
        if self.asked.chat.return_token_ids:
            whole["prompt_token_ids"] = self.asked.prompt.tokens.tolist()
        return whole

    def choice(self, row: Trajectory) -> dict[str, Any]:
        """One trajectory as a choice."""
        message, reason = self._agent_message(row) if self.asked.kind else self._turn_message(row)
        choice = {"index": row.row, "message": message, "finish_reason": reason, "logprobs": None}
        sampled = np.flatnonzero(row.loss_mask)
        if self.asked.chat.logprobs:
            choice["logprobs"] = self.logprobs(row.tokens[sampled], row.sampler_logps[sampled])
        if self.asked.chat.return_token_ids:
            choice["token_ids"] = row.tokens[sampled].tolist()
        if self.asked.kind:
            choice["trajectory"] = _told(row)
        return choice

    def _turn_message(self, row: Trajectory) -> tuple[dict[str, Any], str]:
        text = self.turn_text()
        text.read(row.tokens[row.prompt_len :])
        text.finish()
        message: dict[str, Any] = {"role": "assistant", "content": text.text}
        reason = "length" if row.status in _CUT else "stop"
        if self.asked.chat.tools and OPEN in text.text:
            action = HermesSyntax(self.asked.chat.tools).parse(text.text)
            if isinstance(action, ToolCall):
                function = {"name": action.tool, "arguments": json.dumps(action.arguments, ensure_ascii=False)}
                call = {"id": self.call_id(row.row), "type": "function", "function": function}
                before = text.text.partition(OPEN)[0]
                return message | {"content": before if before.strip() else None, "tool_calls": [call]}, "tool_calls"
        return message, reason

    def _agent_message(self, row: Trajectory) -> tuple[dict[str, Any], str]:
        answer = row.answer
        reason = "stop" if row.status is Status.ANSWERED else "length"
        return {"role": "assistant", "content": answer, "reasoning_content": self.reasoning(row)}, reason

    def reasoning(self, row: Trajectory) -> str:
        """All that an agent wrote and was told."""
        return "\n".join(told_of(turn) for turn in row.turns)

    def logprobs(self, tokens: np.ndarray, logps: np.ndarray) -> dict[str, Any]:
        """Log-probs of sampled tokens under the distribution that they were sampled from."""
        content = []
        for token, logp in zip(tokens.tolist(), logps.tolist(), strict=True):
            piece = self._pieces[token]
            text = piece.decode("utf-8", "replace")
            content.append({"token": text, "logprob": logp, "bytes": list(piece), "top_logprobs": []})
        return {"content": content, "refusal": None}

    def chunk(self, index: int, delta: Mapping[str, Any], reason: str | None = None, **more: Any) -> dict[str, Any]:
        """One chunk of a streamed reply."""
        choice = {"index": index, "delta": dict(delta), "finish_reason": reason, "logprobs": None} | more
        chunk = self._head | {"object": "chat.completion.chunk", "choices": [choice]}
        return chunk | ({"usage": None} if self.asked.chat.include_usage else {})

    def last_chunk(self, rows: Sequence[Trajectory]) -> dict[str, Any]:
        """The chunk with the usage."""
        return self._head | {"object": "chat.completion.chunk", "choices": [], "usage": self.usage(rows)}


def told_of(turn) -> str:
    """A turn and its observation as text."""
    return turn.text + (f"\n{turn.observation.text}" if turn.observation is not None else "")


def _told(row: Trajectory) -> dict[str, Any]:
    turns = []
    for turn in row.turns:
        seen = turn.observation
        told = {"text": turn.text}
        if seen is not None:
            tool = None if turn.call is None else turn.call.tool
            told["observation"] = {
                "tool": tool, "status": seen.status.value, "text": seen.text, "n_images": len(seen.images),
            }  # fmt: skip
        turns.append(told)
    return {"status": row.status.value, "turns": turns}


def error(message: str, kind: str, param: str = "", code: str | None = None) -> dict[str, Any]:
    """An error as OpenAI's servers tell it."""
    return {"error": {"message": message, "type": kind, "param": param or None, "code": code}}
