"""The paper's syntax: ``<think>..</think>`` and then exactly one element that asks for a tool or answers.

Visual-ARFT (arXiv 2505.14246). Each tool has an element of its own, ``<search>``, ``<problem>``, ``<code>``, ...;
``<answer>`` ends the trajectory.
"""

import re
from collections.abc import Sequence

from arft_jax.protocol import Action, Answer, Malformed, ToolCall
from arft_jax.syntax.spec import BadCall, ToolSpec, check_arguments

ANSWER, THINK = "answer", "think"


class TagSyntax:
    """Reads and writes the elements of some tools.

    Args:
      specs: the tools, each with a tag of its own.

    Raises:
      ValueError: two tools of one tag or one name, or a tag that is no plain word or has a meaning already.
    """

    name = "tags"

    def __init__(self, specs: Sequence[ToolSpec]):
        self.specs = tuple(specs)
        self._by_tag = {spec.tag: spec for spec in self.specs}
        self._by_name = {spec.name: spec for spec in self.specs}
        if len(self._by_tag) < len(self.specs) or len(self._by_name) < len(self.specs):
            named = ", ".join(f"{spec.name} <{spec.tag}>" for spec in self.specs)
            raise ValueError(f"tools must differ in name and tag: got {named} (config.tools.extra)")
        for spec in self.specs:
            if not re.fullmatch(r"[a-z][a-z0-9_]*", spec.tag) or spec.tag in (ANSWER, THINK):
                raise ValueError(
                    f"a tool's tag must be a plain lower-case word, not {ANSWER} or {THINK}: got {spec.tag!r} of "
                    f"{spec.name} (config.tools.extra)"
                )
        self.tags = (*self._by_tag, ANSWER)
        self.stops = tuple(f"</{tag}>" for tag in self.tags)

    def parse(self, text: str) -> Action:
        """Reads the action of one turn; never raises.

        Exactly one element may stand in the turn, closed, with something in it. Thinking is not judged here (see
        :meth:`is_well_formed`).

        Example: ``<think>dim</think><problem>{'dark'}</problem>`` is ``ToolCall("diagnose", {"problems": ["dark"]})``.
        """
        opened = [tag for tag in self.tags for _ in range(text.count(f"<{tag}>"))]
        if not opened:
            return Malformed("no action tag")
        if len(opened) > 1:
            return Malformed("more than one action tag")
        [tag] = opened
        body, closed, _ = text.partition(f"<{tag}>")[2].partition(f"</{tag}>")
        if not closed:
            return Malformed(f"<{tag}> is not closed")
        spec = self._by_tag.get(tag)
        if not body.strip():
            return Malformed(f"<{tag}> is empty", tell=spec is not None and spec.tells)
        if spec is None:
            return Answer(body.strip())
        try:
            return ToolCall(spec.name, spec.read(body))
        except BadCall as error:
            return Malformed(str(error), tell=spec.tells)

    def is_well_formed(self, text: str) -> bool:
        """Whether the whole turn is one ``<think>..</think>`` and then exactly one action, nothing else.

        Every tag may stand at most once: repeats score 0 as in the released code.

        Example: ``<think>a</think><answer>b</answer>`` is, ``<answer>b</answer>`` is not.
        """
        if isinstance(self.parse(text), Malformed):
            return False
        for tag in (THINK, *self.tags):
            if text.count(f"<{tag}>") > 1 or text.count(f"</{tag}>") > 1:
                return False
        thought, closed, action = text.strip().partition(f"</{THINK}>")
        action = action.lstrip()
        return (
            bool(closed)
            and thought.startswith(f"<{THINK}>")
            and any(action.startswith(f"<{tag}>") and action.endswith(f"</{tag}>") for tag in self.tags)
        )

    def write(self, action: Action, thought: str = "") -> str:
        """The turn that :meth:`parse` reads as this action.

        Raises:
          ValueError: a call of a tool that the syntax does not have, no action, or a text that the syntax cannot hold.
        """
        spec = self._by_name.get(action.tool) if isinstance(action, ToolCall) else None
        if spec is None and not isinstance(action, Answer):
            known = ", ".join(self._by_name) or "none"
            raise ValueError(f"a written action must be an answer or a call of one of {known}: got {action}")
        tag = ANSWER if spec is None else spec.tag
        try:
            body = action.text if spec is None else spec.write(check_arguments(spec.parameters, action.arguments))
            read = Answer(body.strip()) if spec is None else ToolCall(spec.name, spec.read(body))
        except BadCall as error:
            raise ValueError(f"a call must be one that <{tag}> can hold ({error}): got {action}") from error
        text = f"<{THINK}>{thought}</{THINK}><{tag}>{body}</{tag}>"
        if self.parse(text) != read:
            raise ValueError(f"a written turn must hold no other tag: got {text!r}")
        return text

    def system(self, text: str, specs: tuple[ToolSpec, ...]) -> str:
        """The text as it is: the tools' lines stand inside it (data/system_prompts.py)."""
        return text

    def reply(self, text: str) -> tuple[str, str]:
        """A reply stands behind its images, without a frame of its own."""
        return "", text
