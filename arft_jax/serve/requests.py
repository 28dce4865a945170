"""What a client asks: the body of ``POST /v1/chat/completions``, checked, its images decoded.

Source of the form: OpenAI's API reference, chat completions. What changes an answer and is not done here is refused;
what has no effect on it (``user``, ``metadata``) is taken. Two fields are not those of OpenAI: ``return_token_ids``,
as vLLM has it, and ``corpus``, the collection that a search agent searches.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from arft_jax.syntax.spec import ToolSpec
from arft_jax.trajectory import Image

OpenImage = Callable[[Any, str], Image]  # (source as it stands in the message, its place for errors) -> image

MAX_STOPS, MAX_STOP_CHARACTERS, MAX_ROWS = 8, 200, 128
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
# Without effect on the answer, or of a value that leaves it as it is.
_TAKEN = {"user", "metadata", "store", "service_tier", "parallel_tool_calls", "safety_identifier", "prompt_cache_key"}
_NEUTRAL = {
    "frequency_penalty": (0, None),
    "presence_penalty": (0, None),
    "logit_bias": ({}, None),
    "top_logprobs": (0, None),
    "tool_choice": ("auto", "none", None),
    "response_format": ({"type": "text"}, None),
    "modalities": (["text"], None),
}


class BadRequest(ValueError):
    """A body that cannot be served.

    Args:
      message: one sentence.
      param: which field of the body.
      code: of OpenAI's, where it has one that clients know.
    """

    def __init__(self, message: str, param: str = "", code: str | None = None):
        super().__init__(message)
        self.param, self.code = param, code


@dataclasses.dataclass(frozen=True, eq=False)
class Message:
    """One message.

    Args:
      role: ``system``, ``user``, ``assistant`` or ``tool``.
      parts: texts and images in order.
      calls: of an assistant: (id, name, arguments).
    """

    role: str
    parts: tuple[str | Image, ...]
    calls: tuple[tuple[str, str, Mapping[str, Any]], ...] = ()

    @property
    def text(self) -> str:
        """Its texts, one line each."""
        return "\n".join(part for part in self.parts if isinstance(part, str))

    @property
    def images(self) -> tuple[Image, ...]:
        """Its images."""
        return tuple(part for part in self.parts if isinstance(part, Image))


@dataclasses.dataclass(frozen=True, eq=False)
class ChatRequest:
    """A body that was read; see OpenAI's reference for the fields.

    Args:
      max_tokens: that may be sampled; None: as many as there is room for.
      seed: None: drawn.
      tools: that the client runs.
      corpus: what a search agent searches.
      return_token_ids: ids are wanted beside the texts.
    """

    model: str
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...]
    temperature: float
    top_p: float
    n: int
    seed: int | None
    max_tokens: int | None
    stop: tuple[str, ...]
    stream: bool
    include_usage: bool
    logprobs: bool
    return_token_ids: bool
    corpus: str
    metadata: Mapping[str, Any]

    @property
    def images(self) -> tuple[Image, ...]:
        """Of all messages, in order."""
        return tuple(image for message in self.messages for image in message.images)


def read_request(body: bytes, open_image: OpenImage) -> ChatRequest:
    """Reads a body.

    Args:
      body: JSON.
      open_image: decodes what an image part names.

    Raises:
      BadRequest: what is wrong, with its field.
    """
    try:
        values = json.loads(body)
        json.dumps(values, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body must be JSON: {str(error)[:100]}") from None
    if not isinstance(values, dict):
        raise BadRequest("the body must be a JSON object")
    _check_keys(values)
    stop = values.get("stop") or ()
    options = _object(values, "stream_options")
    wanted = values.get("max_completion_tokens", values.get("max_tokens"))
    return ChatRequest(
        model=_text(values, "model", ""),
        messages=_messages(values.get("messages"), open_image),
        tools=() if values.get("tool_choice") == "none" else _tools(values.get("tools") or []),
        temperature=_number(values, "temperature", 1.0, 0, 2),
        top_p=_number(values, "top_p", 1.0, 1e-9, 1),
        n=_whole(values, "n", 1, 1, MAX_ROWS),
        seed=_whole(values, "seed", None, -(2**63), 2**63 - 1),
        max_tokens=None if wanted is None else _whole({"max_tokens": wanted}, "max_tokens", 1, 1, 2**31 - 1),
        stop=_stops([stop] if isinstance(stop, str) else stop),
        stream=_flag(values, "stream"),
        include_usage=_flag(options, "include_usage"),
        logprobs=_flag(values, "logprobs"),
        return_token_ids=_flag(values, "return_token_ids"),
        corpus=_text(values, "corpus", ""),
        metadata=_object(values, "metadata"),
    )


_READ = {
    "model", "messages", "tools", "temperature", "top_p", "n", "seed", "max_tokens", "max_completion_tokens", "stop",
    "stream", "stream_options", "logprobs", "return_token_ids", "corpus",
}  # fmt: skip


def _check_keys(values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if key in _NEUTRAL and value not in _NEUTRAL[key]:
            allowed = " or ".join(json.dumps(choice) for choice in _NEUTRAL[key] if choice is not None)
            raise BadRequest(f"{key} must be {allowed} here: got {_shown(value)}", key)
        if key not in _READ and key not in _NEUTRAL and key not in _TAKEN and value is not None:
            raise BadRequest(f"{key} is not served here: got {_shown(value)}", key)


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[:60]


def _text(values: Mapping[str, Any], key: str, default: str) -> str:
    value = values.get(key)
    if value is not None and not isinstance(value, str):
        raise BadRequest(f"{key} must be text: got {_shown(value)}", key)
    return value or default


def _object(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = values.get(key)
    if value is not None and not isinstance(value, dict):
        raise BadRequest(f"{key} must be an object: got {_shown(value)}", key)
    return value or {}


def _flag(values: Mapping[str, Any], key: str) -> bool:
    value = values.get(key)
    if value is not None and not isinstance(value, bool):
        raise BadRequest(f"{key} must be true or false: got {_shown(value)}", key)
    return bool(value)


def _number(values: Mapping[str, Any], key: str, default: float, least: float, most: float) -> float:
    value = values.get(key)
    if value is None:
        return default
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not least <= value <= most:
        raise BadRequest(f"{key} must be a number from {least:g} to {most:g}: got {_shown(value)}", key)
    return float(value)


def _whole(values: Mapping[str, Any], key: str, default: int | None, least: int, most: int) -> int | None:
    value = values.get(key)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise BadRequest(f"{key} must be a whole number from {least} to {most}: got {_shown(value)}", key)
    return value


def _stops(stops: Any) -> tuple[str, ...]:
    fits = isinstance(stops, Sequence) and len(stops) <= MAX_STOPS
    if not fits or not all(isinstance(stop, str) and 0 < len(stop) <= MAX_STOP_CHARACTERS for stop in stops):
        told = f"at most {MAX_STOPS} texts of 1 to {MAX_STOP_CHARACTERS} characters"
        raise BadRequest(f"stop must be {told}: got {_shown(stops)}", "stop")
    return tuple(stops)


def _tools(tools: Any) -> tuple[ToolSpec, ...]:
    if not isinstance(tools, list) or len(tools) > 128:
        raise BadRequest("tools must be a list of at most 128 functions", "tools")
    specs = []
    for place, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise BadRequest(
                f"tools[{place}] must be of type function, with a name: got {_shown(tool)}", f"tools[{place}]"
            )
        parameters = function.get("parameters") or {"type": "object", "properties": {}}
        if not isinstance(parameters, dict) or not isinstance(parameters.get("properties", {}), dict):
            raise BadRequest(f"tools[{place}].function.parameters must be a JSON schema", f"tools[{place}]")
        specs.append(ToolSpec(function["name"], str(function.get("description") or ""), parameters, function["name"]))
    return tuple(specs)


def _messages(messages: Any, open_image: OpenImage) -> tuple[Message, ...]:
    if not isinstance(messages, list) or not messages:
        raise BadRequest("messages must be a list of at least one message", "messages")
    read = []
    for place, message in enumerate(messages):
        where = f"messages[{place}]"
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            raise BadRequest(f"{where} must have a role among {', '.join(_ROLES)}: got {_shown(message)}", where)
        role = _ROLES[message["role"]]
        if role == "system" and place:
            raise BadRequest(f"{where}: a system message must be the first", where)
        calls = _calls(message.get("tool_calls") or [], where) if role == "assistant" else ()
        parts = _parts(message.get("content"), where, open_image if role in ("user", "tool") else None)
        if not parts and not calls and role != "system":
            raise BadRequest(f"{where}.content must hold something", where)
        read.append(Message(role, parts, calls))
    if read[-1].role not in ("user", "tool"):
        raise BadRequest("the last message must be a user's or a tool's: the assistant's turn follows it", "messages")
    return tuple(read)


def _parts(content: Any, where: str, open_image: OpenImage | None) -> tuple[str | Image, ...]:
    if content is None:
        return ()
    if isinstance(content, str):
        return (content,) if content else ()
    if not isinstance(content, list):
        raise BadRequest(f"{where}.content must be text or a list of parts: got {_shown(content)}", where)
    parts: list[str | Image] = []
    for place, part in enumerate(content):
        name = f"{where}.content[{place}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            parts.append(part["text"])
        elif kind == "image_url" and open_image is not None:
            source = part.get("image_url")
            parts.append(open_image(source.get("url") if isinstance(source, dict) else source, name))
        else:
            kinds = "text or image_url" if open_image is not None else "text"
            raise BadRequest(f"{name} must be a part of type {kinds}: got {_shown(part)}", name)
    return tuple(parts)


def _calls(calls: Any, where: str) -> tuple[tuple[str, str, Mapping[str, Any]], ...]:
    read = []
    for place, call in enumerate(calls if isinstance(calls, list) else [None]):
        function = call.get("function") if isinstance(call, dict) else None
        try:
            arguments = json.loads(function["arguments"] or "{}")
            if not isinstance(function["name"], str) or not isinstance(arguments, dict):
                raise TypeError
        except (TypeError, KeyError, ValueError, RecursionError):
            name = f"{where}.tool_calls[{place}]"
            raise BadRequest(f"{name} must have a function with a name and arguments as JSON", name) from None
        read.append((str(call.get("id", "")), function["name"], arguments))
    return tuple(read)
