"""The tag grammar: one turn's text -> Search | Code | Problem | Answer | Malformed.

Visual-ARFT (arXiv 2505.14246): a turn is ``<think>..</think>`` followed by exactly one action,
``<search>``, ``<problem>``, ``<code>`` or ``<answer>``.
"""

import dataclasses
import re

KINDS = ("rotation90", "rotation180", "dark", "overexposure", "blur", "noise", "crop", "none")
TAGS = ("search", "problem", "code", "answer")
STOPS = tuple(f"</{tag}>" for tag in TAGS)
INPUT_NAME = "path_to_input_image.jpg"
OUTPUT_NAME = "path_to_output_image.jpg"


@dataclasses.dataclass(frozen=True)
class Search:
    """A text query."""

    query: str


@dataclasses.dataclass(frozen=True)
class Code:
    """Python source, taken from the fenced block."""

    source: str


@dataclasses.dataclass(frozen=True)
class Problem:
    """The named kinds of degradation, sorted, without repeats."""

    kinds: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Answer:
    """The final answer's text, stripped."""

    text: str


@dataclasses.dataclass(frozen=True)
class Malformed:
    """No action; ``reason`` is one sentence for people and logs."""

    reason: str


Action = Search | Code | Problem | Answer | Malformed

_ACTION = re.compile(r"<(search|problem|code|answer)>(.*?)</\1>", re.DOTALL)
_FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)
_THINK = re.compile(r"\s*<think>(.*?)</think>\s*(<(search|problem|code|answer)>.*</\3>)\s*", re.DOTALL)
_KIND_SET = re.compile(r"\{\s*(?:'[a-z0-9]+'(?:\s*,\s*'[a-z0-9]+')*)\s*\}")


def _parse_problem(body: str) -> Problem | Malformed:
    body = body.strip()
    if not _KIND_SET.fullmatch(body):
        return Malformed("<problem> must hold a set such as {'rotation90', 'dark'}")
    kinds = re.findall(r"'([a-z0-9]+)'", body)
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        return Malformed(f"unknown problem kind {unknown[0]!r}")
    return Problem(tuple(sorted(set(kinds))))


def parse_turn(text: str) -> Action:
    """Reads the action of one turn; never raises.

    Exactly one action element may stand in the turn, closed, with something in it. Thinking is not
    judged here (see :func:`is_well_formed`).

    >>> parse_turn("<think>dim</think><problem>{'dark'}</problem>")
    Problem(kinds=('dark',))
    """
    opened = [tag for tag in TAGS for _ in range(text.count(f"<{tag}>"))]
    if not opened:
        return Malformed("no action tag")
    if len(opened) > 1:
        return Malformed("more than one action tag")
    found = _ACTION.search(text)
    if found is None:
        return Malformed(f"<{opened[0]}> is not closed")
    tag, body = found.group(1), found.group(2)
    if not body.strip():
        return Malformed(f"<{tag}> is empty")
    if tag == "search":
        return Search(" ".join(body.split()))
    if tag == "answer":
        return Answer(body.strip())
    if tag == "problem":
        return _parse_problem(body)
    fences = _FENCE.findall(body)
    if len(fences) != 1:
        return Malformed("<code> must hold exactly one fenced python block")
    return Code(fences[0]) if fences[0].strip() else Malformed("<code> is empty")


def is_well_formed(text: str) -> bool:
    """Whether the whole turn is one ``<think>..</think>`` and then exactly one action, nothing else.

    Every tag may stand at most once: repeats score 0 as in the released code.

    >>> is_well_formed("<think>a</think><answer>b</answer>"), is_well_formed("<answer>b</answer>")
    (True, False)
    """
    if isinstance(parse_turn(text), Malformed):
        return False
    for tag in ("think", *TAGS):
        if text.count(f"<{tag}>") > 1 or text.count(f"</{tag}>") > 1:
            return False
    return _THINK.fullmatch(text) is not None
