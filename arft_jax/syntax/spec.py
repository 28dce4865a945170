"""What a policy is told of a tool, and how the arguments of a call are checked against the tool's JSON schema."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from arft_jax.protocol import Action

_TYPES = {
    "string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,), "array": (list, tuple),
    "object": (dict,), "null": (type(None),),
}  # fmt: skip


class BadCall(ValueError):
    """The body of a call cannot be read; the message is one sentence for people and for the policy."""


@dataclasses.dataclass(frozen=True)
class ToolSpec:
    """What a policy is told of a tool, and how it writes a call.

    Args:
      name: of the function; in metrics and records too.
      description: one sentence or two; the tool's line in a system prompt.
      parameters: JSON schema of the arguments, of type ``object``.
      tag: the element that holds a call in the paper's syntax.
      line: what the system prompt says of the element; empty: made from the description and the parameters.
      read_body: the element's text -> arguments; raises BadCall. None: one text argument, or a JSON object.
      write_body: arguments -> the element's text; None: the inverse of that.
      kinds: of tasks that are offered the tool unless the configuration says otherwise; None: every kind.
      tells: what is wrong with a call in the paper's syntax is told to the policy; False: it ends the trajectory.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    tag: str
    line: str = ""
    read_body: Callable[[str], dict[str, Any]] | None = None
    write_body: Callable[[Mapping[str, Any]], str] | None = None
    kinds: tuple[str, ...] | None = None
    tells: bool = True

    @property
    def schema(self) -> dict[str, Any]:
        """The tool as ``transformers``' chat templates take it."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}

    @property
    def prompt_line(self) -> str:
        """The tool's line in the system prompt of the paper's syntax."""
        if self.line:
            return self.line
        names, only = self.parameters.get("properties", {}), _only_text(self.parameters)
        needed = self.parameters.get("required", ())
        told = [self.description]
        for name, part in names.items():
            words = _type_words(part) + ("" if name in needed else ", may be left out")
            told.append(f"{name} ({words}): {part.get('description', '')}")
        holds = f"its {only}" if only else "a JSON object of its arguments"
        sentences = [sentence if sentence.endswith((".", "?", "!")) else f"{sentence}." for sentence in told]
        return " ".join([f"<{self.tag}>...</{self.tag}> holds {holds}.", *sentences])

    def read(self, body: str) -> dict[str, Any]:
        """The arguments that an element's text holds, checked against the schema.

        Raises:
          BadCall: nothing that can be read.
        """
        return check_arguments(self.parameters, (self.read_body or self._read_default)(body))

    def write(self, arguments: Mapping[str, Any]) -> str:
        """The inverse of :meth:`read`."""
        if self.write_body is not None:
            return self.write_body(arguments)
        only = _only_text(self.parameters)
        if only:
            return str(arguments[only])
        # No "<" in it: then no text of an argument can open or close an element.
        return json.dumps(dict(arguments), ensure_ascii=False).replace("<", "\\u003c")

    def _read_default(self, body: str) -> dict[str, Any]:
        only = _only_text(self.parameters)
        return {only: body.strip()} if only else read_json(body)


def read_json(text: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
      BadCall: no JSON, no object, or a text in it that no encoding can hold.
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
        json.dumps(value, ensure_ascii=False).encode()  # no tool must meet half of a surrogate pair
    except (ValueError, RecursionError):
        raise BadCall("The arguments must be one JSON object.") from None
    if not isinstance(value, dict):
        raise BadCall(f"The arguments must be one JSON object: got {_json_type(value)}.")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def check_arguments(parameters: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments as they are, if the schema allows them: names, required ones, types and enumerations.

    Raises:
      BadCall: it does not; the first fault is named.
    """
    known = parameters.get("properties", {})
    for name in arguments:
        if name not in known:
            raise BadCall(f"There is no argument {name!r}. Arguments: {', '.join(known) or 'none'}.")
    for name in parameters.get("required", ()):
        if name not in arguments:
            raise BadCall(f"The argument {name!r} is missing.")
    for name, value in arguments.items():
        if not _fits(known[name], value):
            raise BadCall(f"The argument {name!r} must be {_type_words(known[name])}: got {_json_type(value)}.")
    return dict(arguments)


def _fits(schema: Mapping[str, Any], value: Any) -> bool:
    if value is None and schema.get("nullable"):
        return True
    if "enum" in schema and value not in schema["enum"]:
        return False
    if "anyOf" in schema:
        return any(_fits(part, value) for part in schema["anyOf"])
    kinds = schema.get("type", ())
    kinds = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    if kinds and not any(_is_a(kind, value) for kind in kinds):
        return False
    items = schema.get("items")
    return not (items and isinstance(value, list | tuple)) or all(_fits(items, item) for item in value)


def _is_a(kind: str, value: Any) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if isinstance(value, float) and not math.isfinite(value):  # 1e999
        return False
    return isinstance(value, _TYPES.get(kind, (object,)))


def _type_words(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return "one of " + ", ".join(map(str, schema["enum"]))
    if "anyOf" in schema:
        return " or ".join(map(_type_words, schema["anyOf"]))
    kinds = schema.get("type", "any value")
    words = kinds if isinstance(kinds, str) else " or ".join(kinds)
    inner = schema.get("items", {}).get("type")
    return f"{words} of {inner}" if inner and words == "array" else words


def _json_type(value: Any) -> str:
    """The type's name; the value itself where it is a number that JSON does not have."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return next((kind for kind in _TYPES if _is_a(kind, value)), type(value).__name__)


def _only_text(parameters: Mapping[str, Any]) -> str:
    """The name of the only argument where it is a text that must be given; empty otherwise."""
    names = list(parameters.get("properties", {}))
    if len(names) != 1 or names[0] not in parameters.get("required", ()):
        return ""
    return names[0] if parameters["properties"][names[0]].get("type") == "string" else ""


class Syntax(Protocol):
    """How turns are written and read.

    ``name`` is that of ``config.tools.syntax``; ``stops`` are the strings that end a turn; ``specs`` the tools.
    """

    name: str
    stops: tuple[str, ...]
    specs: tuple[ToolSpec, ...]

    def parse(self, text: str) -> Action:
        """The action of one turn; never raises."""

    def is_well_formed(self, text: str) -> bool:
        """Whether a turn is in the form that R_format asks for."""

    def write(self, action: Action, thought: str = "") -> str:
        """The turn's text that :meth:`parse` reads as this action."""

    def system(self, text: str, specs: tuple[ToolSpec, ...]) -> str:
        """The system prompt with what the syntax says of these tools behind ``text``."""

    def reply(self, text: str) -> tuple[str, str]:
        """(before, behind) the images of a tool's reply: what the user turn that carries it says."""
