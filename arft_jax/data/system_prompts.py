"""The system prompts: what a policy is told of its task and of every tool that it is offered."""

from collections.abc import Sequence

from arft_jax.syntax.spec import Syntax, ToolSpec

STYLES = ("full", "short")
_TURN = "Every turn starts with a short <think>...</think> and then holds exactly one of these:"
_ANSWER = "<answer>...</answer> gives the final answer, as short as it can be."
# The tools of the paper's two agents. A short prompt does not announce them: it is for policies that know them.
USUAL = {"coding": ("diagnose", "python"), "search": ("search",)}
_SHORT = {"coding": "Fix, then answer.", "search": "Search, then answer.", "general": "Think, then answer."}
_TOOLS = "{tools}"  # in a text of one's own: where the tools' lines go
_FIRST = {
    "coding": "You answer a question about a picture. The picture may be spoilt, and you can repair it with Python.",
    "search": "You answer a question about a picture with the help of a text search.",
}
_LAST = {
    "coding": "Name the problem first, repair it, then answer. Where the question gives a box [x0, y0, x1, y1], its "
    "numbers run from 0 to 1000 over the picture's width (x) and height (y); to crop, scale them to the shape of the "
    "picture.",
    "search": "First see what the picture shows, then search for what you do not know, more than once if need be, then "
    "answer.",
}


def system_prompt(kind: str, style: str, specs: Sequence[ToolSpec], syntax: Syntax, text: str | None = None) -> str:
    """The whole system text for a task.

    Args:
      kind: of the task.
      style: ``full``, or ``short`` for models that read little.
      specs: the tools that the task is offered, in the order in which they are announced.
      syntax: in which the policy writes.
      text: one's own, in place of the kind's. The announcement of the tools stands at ``{tools}`` in it, else behind
        it; a syntax with a section for tools announces them there.

    Raises:
      ValueError: an unknown style.
    """
    if style not in STYLES:
        raise ValueError(f"system_prompt must be {' or '.join(STYLES)}: got {style!r} (config.system_prompt)")
    specs = tuple(specs)
    if syntax.name != "tags":
        own = _plain_text(kind, style, specs) if text is None else text.replace(_TOOLS, "").strip()
        return syntax.system(own, specs)
    announcement = [_TURN, *(spec.prompt_line for spec in specs), _ANSWER]
    if text is not None:
        return (text if _TOOLS in text else f"{text}\n{_TOOLS}").replace(_TOOLS, "\n".join(announcement))
    if style == "short":
        new = [spec.prompt_line for spec in specs if spec.name not in USUAL.get(kind, ())]
        return "\n".join([_SHORT.get(kind, "Answer."), *new])
    return "\n".join([_first(kind, specs), *announcement, *_last(kind, specs)])


def _plain_text(kind: str, style: str, specs: tuple[ToolSpec, ...]) -> str:
    """The task's text without a word on how calls are written: the syntax says that."""
    if style == "short":
        return _SHORT.get(kind, "Answer.")
    return "\n".join([_first(kind, specs), *_last(kind, specs), "Give the final answer as short as it can be."])


def _first(kind: str, specs: tuple[ToolSpec, ...]) -> str:
    if _has_usual(kind, specs):
        return _FIRST[kind]
    return "You answer a question with the help of tools." if specs else "You answer a question."


def _last(kind: str, specs: tuple[ToolSpec, ...]) -> list[str]:
    return [_LAST[kind]] if _has_usual(kind, specs) else []


def _has_usual(kind: str, specs: tuple[ToolSpec, ...]) -> bool:
    return kind in USUAL and set(USUAL[kind]) <= {spec.name for spec in specs}
