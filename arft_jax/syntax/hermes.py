"""The Hermes syntax, as Qwen2.5's chat template has it: a call is JSON inside ``<tool_call>``, an answer is plain text.

The tools' schemas stand in the system turn, a reply in ``<tool_response>`` inside a user turn. Source of the form:
the chat template of Qwen2.5-Instruct. A turn without a call is the answer; a leading ``<think>..</think>`` is not part
of it.
"""

import json
import re
from collections.abc import Sequence

from arft_jax.protocol import Action, Answer, Malformed, ToolCall
from arft_jax.syntax.spec import BadCall, ToolSpec, check_arguments, read_json

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_THOUGHT = re.compile(r"\s*<think>(.*?)</think>", re.DOTALL)
_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_-]{0,63}")


class HermesSyntax:
    """Reads and writes calls of some tools as JSON.

    Args:
      specs: the tools, each with a name of its own.

    Raises:
      ValueError: two tools of one name, or a name that no JSON call can hold.
    """

    name = "hermes"
    stops = (CLOSE,)

    def __init__(self, specs: Sequence[ToolSpec]):
        self.specs = tuple(specs)
        self._by_name = {spec.name: spec for spec in self.specs}
        if len(self._by_name) < len(self.specs):
            raise ValueError(
                f"tools must differ in name: got {', '.join(s.name for s in self.specs)} (config.tools.extra)"
            )
        for spec in self.specs:
            if not _NAME.fullmatch(spec.name):
                raise ValueError(f"a tool's name must be a plain word: got {spec.name!r} (config.tools.extra)")

    def parse(self, text: str) -> Action:
        """Reads the action of one turn; never raises.

        Example: ``<tool_call>\\n{"name": "search", "arguments": {"query": "fox"}}\\n</tool_call>`` is a call of search,
        ``The answer is 7.`` an answer.
        """
        if OPEN not in text and CLOSE not in text:
            answer = _without_thought(text)
            return Answer(answer) if answer else Malformed("the turn is empty")
        if CLOSE not in text:  # the end token or the budget ended the turn
            return Malformed(f"{OPEN} is not closed")
        if text.count(OPEN) != 1:
            return Malformed(f"A turn must hold one {OPEN}: got {text.count(OPEN)}.", tell=True)
        body, closed, _ = text.partition(OPEN)[2].partition(CLOSE)
        if not closed:
            return Malformed(f"{CLOSE} must stand behind {OPEN}.", tell=True)
        try:
            return self._read(body)
        except BadCall as error:
            return Malformed(str(error), tell=True)

    def _read(self, body: str) -> ToolCall:
        try:
            call = read_json(body)
        except BadCall:
            raise BadCall('A call must be a JSON object {"name": ..., "arguments": {...}}.') from None
        name, arguments = call.get("name"), call.get("arguments", {})
        if not isinstance(name, str) or name not in self._by_name:
            raise BadCall(f"There is no tool of that name. Tools: {', '.join(self._by_name) or 'none'}.")
        if isinstance(arguments, str):  # some models write the object as a text of JSON
            arguments = read_json(arguments)
        if not isinstance(arguments, dict):
            raise BadCall("The arguments must be one JSON object.")
        spec = self._by_name[name]
        return ToolCall(name, check_arguments(spec.parameters, arguments))

    def is_well_formed(self, text: str) -> bool:
        """Whether the turn is one readable call with nothing behind it, or an answer with something in it."""
        action = self.parse(text)
        if isinstance(action, Malformed):
            return False
        return not isinstance(action, ToolCall) or not text.partition(CLOSE)[2].strip()

    def write(self, action: Action, thought: str = "") -> str:
        """The turn that :meth:`parse` reads as this action.

        Raises:
          ValueError: a call of a tool that the syntax does not have, no action, or a text that the syntax cannot hold.
        """
        before = f"<think>{thought}</think>\n" if thought else ""
        if isinstance(action, Answer):
            text, read = f"{before}{action.text}", Answer(action.text.strip())
        elif isinstance(action, ToolCall) and action.tool in self._by_name:
            body = json.dumps({"name": action.tool, "arguments": dict(action.arguments)}, ensure_ascii=False)
            for mark in (OPEN, CLOSE):  # inside a text of the arguments
                body = body.replace(mark, f"\\u003c{mark[1:]}")
            text, read = f"{before}{OPEN}\n{body}\n{CLOSE}", ToolCall(action.tool, json.loads(body)["arguments"])
        else:
            known = ", ".join(self._by_name) or "none"
            raise ValueError(f"a written action must be an answer or a call of one of {known}: got {action}")
        if self.parse(text) != read or text.count(CLOSE) != isinstance(read, ToolCall):
            raise ValueError(f"a written turn must hold no other mark and what its tool takes: got {text!r}")
        return text

    def system(self, text: str, specs: tuple[ToolSpec, ...]) -> str:
        """The system text and behind it the section on tools; the text alone where there is no tool."""
        if not specs:
            return text
        schemas = "".join(f"\n{json.dumps(spec.schema, ensure_ascii=False)}" for spec in specs)
        return (
            f"{text}\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
            "You are provided with function signatures within <tools></tools> XML tags:\n"
            f"<tools>{schemas}\n</tools>\n\n"
            "For each function call, return a json object with function name and arguments within "
            f"{OPEN}{CLOSE} XML tags:\n{OPEN}\n"
            f'{{"name": <function-name>, "arguments": <args-json-object>}}\n{CLOSE}'
        )

    def reply(self, text: str) -> tuple[str, str]:
        """A reply and its images stand inside ``<tool_response>``."""
        return "<tool_response>\n", f"{text}\n</tool_response>"


def _without_thought(text: str) -> str:
    found = _THOUGHT.match(text)
    return text[found.end() :].strip() if found else text.strip()
