"""Chains to imitate from the user's own conversations: a JSONL file, ``jsonl:PATH`` in ``config.warm_start.chains``.

A line holds ``messages`` in OpenAI's form (contents: messages.py):

    system       optional: the chain's own system prompt
    user         the question, with what images it shows
    assistant    a turn: text, or one entry of ``tool_calls`` ({"function": {"name", "arguments"}}), the text beside it
                 and ``reasoning_content`` being its thought
    tool, user   what the call gave: text and images
    ..
    assistant    the answer: its text, written as the syntax has it

Every assistant turn is learnt but those with ``"train": false`` or ``"weight": 0``. Optional beside ``messages``:
``id``, ``kind`` (general, coding or search), ``images`` (for image parts without a source), ``tools`` (names, or
schemas as OpenAI has them).

A turn is written in the syntax that the policy speaks, so that a chain is the token stream of a rollout that says the
same: text that is a turn of that syntax already is taken as it is.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from arft_jax.config import task_set_name
from arft_jax.data import items
from arft_jax.data.image_files import ImageFiles
from arft_jax.data.jsonl_tasks import KINDS, file_of
from arft_jax.data.messages import LineImages, content_of, messages_of
from arft_jax.data.synthetic.chains import Chain, ChainTurn
from arft_jax.protocol import Answer, ToolCall
from arft_jax.syntax.spec import Syntax, check_arguments
from arft_jax.trajectory import Observation, Task

CONFIG_KEY = "config.warm_start.chains"
KEYS = ("messages", "id", "kind", "images", "tools")
_THOUGHT = re.compile(r"\s*<think>(.*?)</think>\s*(.*)", re.DOTALL)


def load_chains(entries: Sequence[str], syntax: Syntax) -> list[Chain]:
    """The chains of all files, in their order; images stay on disk.

    Args:
      entries: ``jsonl:PATH`` each.
      syntax: in which turns are written, with the tools of the run.

    Raises:
      ValueError: an unreadable file, or a line that is no such conversation; its number and key are named.
    """
    chains = []
    for entry in entries:
        path, name = file_of(entry), task_set_name(entry)
        files, where_by_id = ImageFiles(), {}
        for number, (where, item) in enumerate(items.read_json_lines(path, CONFIG_KEY)):
            items.check_keys(item, KEYS, where)
            identity = items.id_of(item, where) if "id" in item else f"{name}-{number}"
            items.check_different(where_by_id, identity, where)
            images = LineImages(files, path.parent, where, items.list_of(item, "images", where))
            chains.append(_chain(item, where, images, syntax, name, identity))
        files.tell_animated(path)
    return chains


def _chain(item: Mapping[str, Any], where: str, images: LineImages, syntax: Syntax, name: str, identity: str) -> Chain:
    messages = messages_of(item, where)
    first = _check_roles([message["role"] for message in messages], where)
    contents = [
        ("", ()) if message["role"] == "assistant" else content_of(message, f"messages[{place}]", images, where)
        for place, message in enumerate(messages)
    ]
    if images.rest():
        raise ValueError(f"{where}: images must each be shown by a part of messages: got more than are shown")
    system, (question, shown) = contents[0][0] if first else "", contents[first]
    if not question.strip():
        raise items.wrong(where, f"messages[{first}].content", "hold text, not blank", messages[first].get("content"))
    kind = items.choice_of(item, "kind", KINDS, where, "general")
    task = Task(identity, kind, question, shown, (), tools=_tools(item, where, syntax), system=system, task_set=name)
    turns = []
    for place in range(first + 1, len(messages), 2):
        key, is_last = f"messages[{place}]", place == len(messages) - 1
        seen = None if is_last else Observation(*contents[place + 1])
        text = _turn(messages[place], key, where, syntax, is_last)
        turns.append(ChainTurn(text, seen, _is_learnt(messages[place], key, where)))
    if not any(turn.train for turn in turns):
        raise ValueError(f"{where}: messages must hold an assistant turn that is learnt: got none (train, weight)")
    return Chain(task, tuple(turns))


def _check_roles(roles: Sequence[str], where: str) -> int:
    """The place of the question in a conversation whose roles follow one another as the module says."""
    first = 1 if roles[0] == "system" else 0
    said, heard = roles[first + 1 :: 2], roles[first + 2 :: 2]
    in_turns = list(roles[first : first + 1]) == ["user"] and len(said) == len(heard) + 1
    if not in_turns or set(said) != {"assistant"} or not set(heard) <= {"tool", "user"}:
        raise items.wrong(where, "messages", "go user, assistant, tool, assistant, .., assistant", list(roles))
    return first


def _turn(message: Mapping[str, Any], key: str, where: str, syntax: Syntax, is_last: bool) -> str:
    """What the policy would have written."""
    content = message.get("content")
    if isinstance(content, list) and all(isinstance(p, dict) and p.get("type") == "text" for p in content):
        content = "\n".join(str(part.get("text", "")) for part in content)
    if content is not None and not isinstance(content, str):
        raise items.wrong(where, f"{key}.content", "be text", content)
    text, thought = (content or "").strip(), items.text_of(message, "reasoning_content", where, "").strip()
    calls, found = message.get("tool_calls"), _THOUGHT.fullmatch(text)
    if calls:
        beside = " ".join(found.groups()).strip() if found else text
        try:
            return syntax.write(_call(calls, syntax), "\n".join(part for part in (thought, beside) if part))
        except ValueError as error:
            raise ValueError(f"{where}: {key}.tool_calls: {error}") from error
    action = syntax.parse(text)
    if isinstance(action, ToolCall) or (is_last and syntax.is_well_formed(text)):
        return text
    if not is_last:
        raise items.wrong(where, key, "call a tool, as every turn but the last", content)
    thought, text = found.groups() if found else (thought, text)
    inner = syntax.parse(text)  # an answer that has its tags and no thought
    try:
        return syntax.write(inner if isinstance(inner, Answer) else Answer(text.strip()), thought)
    except ValueError as error:
        raise ValueError(f"{where}: {key} must be an answer, or a whole turn: {error}") from error


def _call(calls: Any, syntax: Syntax) -> ToolCall:
    """The one call of a turn, its arguments as the tool's schema allows them."""
    if not isinstance(calls, list) or len(calls) != 1 or not isinstance(calls[0], dict):
        raise ValueError(f"a turn must have one call: got {len(calls) if isinstance(calls, list) else calls!r}")
    call = calls[0].get("function", calls[0])
    arguments = call.get("arguments") if isinstance(call, dict) else None
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError as error:
            raise ValueError(f"arguments must be JSON: {error}") from error
        items.check_texts(arguments, "", CONFIG_KEY, "arguments")  # escapes of their own, unseen from outside
    if not isinstance(arguments, dict) or not isinstance(call.get("name"), str):
        raise ValueError(f"a call must have a name and arguments by name: got {call!r}")
    spec = next((spec for spec in syntax.specs if spec.name == call["name"]), None)
    return ToolCall(call["name"], arguments if spec is None else check_arguments(spec.parameters, arguments))


def _is_learnt(message: Mapping[str, Any], key: str, where: str) -> bool:
    train, weight = message.get("train", True), message.get("weight", 1)
    if not isinstance(train, bool):
        raise items.wrong(where, f"{key}.train", "be true or false", train)
    if weight not in (0, 1):
        raise items.wrong(where, f"{key}.weight", "be 0 or 1", weight)
    return train and bool(weight)


def _tools(item: Mapping[str, Any], where: str, syntax: Syntax) -> tuple[str, ...]:
    tools, known = item.get("tools", []), [spec.name for spec in syntax.specs]
    if isinstance(tools, list):  # OpenAI's files hold schemas
        tools = [tool.get("function", tool).get("name") if isinstance(tool, dict) else tool for tool in tools]
    names = items.names_of({"tools": tools}, "tools", where)
    for name in names:
        items.choice_of({"tools": name}, "tools", known, where, "")
    return names
