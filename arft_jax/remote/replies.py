"""What a server answered: the documented forms of a chat completion, read without trusting any of them.

OpenAI's API reference (chat completions object), and what vLLM, LMDeploy and OpenRouter make of it: ``stop_reason``
names the stop string, an error may come with status 200, a finish reason ``error`` or ``abort`` is no end.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from arft_jax.remote.costs import Usage, usage_of

_THOUGHT = ("reasoning_content", "reasoning")  # vLLM, transformers, DeepSeek; OpenRouter, newer vLLM
_NO_END = ("error", "abort")


class BadReply(Exception):
    """No reply that can be used; another try may give one. The message is one sentence."""


@dataclasses.dataclass(frozen=True)
class Reply:
    """One turn as a server gives it.

    Args:
      text: of the message; empty where it has none.
      refusal: why the model or the provider's filter declined; None: it did not.
      is_cut: the limit of tokens ended the turn.
      stop: the stop string that ended it, where the server says so and leaves it out; None: not known.
      says_stop: whether the server says which stop string, if any, ended a turn.
      model: that answered, as the server names it.
      usage: None: the server did not say.
      thought: what the server has taken out of the text as reasoning.
      calls: what it has taken out as calls of functions, each a JSON object with ``name`` and ``arguments``.
    """

    text: str
    refusal: str | None = None
    is_cut: bool = False
    stop: str | None = None
    says_stop: bool = False
    model: str = ""
    usage: Usage | None = None
    thought: str = ""
    calls: tuple[str, ...] = ()

    @property
    def whole(self) -> str:
        """The text with thought and calls in their places, as Qwen's chat template writes them.

        >>> Reply("<answer>7</answer>", thought="seen").whole
        '<think>seen</think>\\n<answer>7</answer>'
        """
        thought = f"<think>{self.thought}</think>\n" if self.thought and "<think>" not in self.text else ""
        return thought + self.text + "".join(f"\n<tool_call>\n{call}\n</tool_call>" for call in self.calls)


def reply_of(payload: Any) -> Reply:
    """The reply in the JSON value of a response's body.

    Raises:
      BadReply: another form.
    """
    if not isinstance(payload, Mapping):
        raise BadReply(f"a reply that is no JSON object but {type(payload).__name__}")
    choices = payload.get("choices")
    if not isinstance(choices, list) or not choices:
        raise BadReply(_error_in(payload) or "a reply without choices")
    choice = choices[0] if isinstance(choices[0], Mapping) else {}
    message = choice.get("message")
    if not isinstance(message, Mapping):
        raise BadReply("a reply without a message")
    text, finish, refusal = message.get("content"), choice.get("finish_reason"), message.get("refusal")
    if text is not None and not isinstance(text, str):
        raise BadReply(f"a reply whose content is no text but {type(text).__name__}")
    if finish in _NO_END:
        raise BadReply(_error_in(choice) or f"a reply that the server ended by {finish}")
    if not (isinstance(refusal, str) and refusal):
        refusal = "the content filter" if finish == "content_filter" else None
    stop, model = choice.get("stop_reason"), payload.get("model")
    return Reply(
        text=encodable(text or ""),
        refusal=refusal and encodable(refusal),
        is_cut=finish == "length",
        stop=stop if isinstance(stop, str) else None,
        says_stop="stop_reason" in choice,
        model=encodable(model) if isinstance(model, str) else "",
        usage=usage_of(payload.get("usage")),
        thought=next((encodable(message[key]) for key in _THOUGHT if isinstance(message.get(key), str)), ""),
        calls=_calls_in(message),
    )


def _calls_in(message: Mapping[str, Any]) -> tuple[str, ...]:
    """The calls of functions that a server has read in a turn; what has another form is left out."""
    calls, found = message.get("tool_calls"), []
    for call in calls if isinstance(calls, list) else []:
        function = call.get("function") if isinstance(call, Mapping) else None
        if isinstance(function, Mapping) and isinstance(function.get("name"), str):
            arguments = function.get("arguments")
            try:
                arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
            except (ValueError, RecursionError):  # the syntax then says what is wrong with the call
                pass
            found.append(encodable(json.dumps({"name": function["name"], "arguments": arguments}, ensure_ascii=False)))
    return tuple(found)


def encodable(text: str) -> str:
    """The text with a question mark for each half of a surrogate pair, which JSON can hold and no file.

    >>> encodable("a\ud800b")
    'a?b'
    """
    return text.encode("utf-8", "replace").decode()


def _error_in(value: Mapping[str, Any]) -> str:
    error = value.get("error")
    message = error.get("message") if isinstance(error, Mapping) else error
    return f"a reply that is an error: {message}" if isinstance(message, str) and message else ""
