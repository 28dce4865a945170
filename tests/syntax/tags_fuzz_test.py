"""The parser against a plain reading of the grammar, on turns cut up and put together at random."""

import random
import time

import pytest

from arft_jax.protocol import KINDS, Action, Answer, Malformed, ToolCall
from arft_jax.tools.bundled import paper_syntax

TAGS = ("search", "problem", "code", "answer")
TOOLS = {"search": "search", "problem": "diagnose", "code": "python"}  # by their tags
SYNTAX = paper_syntax()

PIECES = (
    *(f"<{tag}>" for tag in ("think", *TAGS)), *(f"</{tag}>" for tag in ("think", *TAGS)),
    *(f"'{kind}'" for kind in KINDS), "{", "}", "{'dark'}", "{'dark', 'crop'}", ",", ", ", "'", "'tired'", "''",
    "```", "```python\n", "```py\n", "```\n", "```python x\n", "x = 1\n", "print('<answer>')", "`", "\n", " ", "\t",
    "red fox", "7", "<", ">", "</", "<|im_end|>", "中文。", "\x00", "\ud800", "\u2028", "\x85", "\x1b[0m", "e\u0301",
)  # fmt: skip
BODIES = {
    "search": ("red fox", " a  b\n", ""),
    "problem": ("{'dark'}", "{ 'crop','dark' }", "{'tired'}", "{}", "dark"),
    "code": ("```python\nx = 1\n```", "```\n \n```", "x = 1", "```py \ny\n``` and ```\nz\n```"),
    "answer": ("7", " a b ", "\u2028"),
}


def random_turn(dice: random.Random) -> str:
    """Pieces in any order, or a turn in form, which is then often damaged."""
    if dice.random() < 0.4:
        return "".join(dice.choices(PIECES, k=dice.randint(0, 12)))
    tag = dice.choice(TAGS)
    text = f"<think>{dice.choice(PIECES)}</think><{tag}>{dice.choice(BODIES[tag])}</{tag}>"
    for _ in range(dice.choice((0, 0, 1, 2, 4))):
        at, end = sorted((dice.randint(0, len(text)), dice.randint(0, len(text))))
        end = min(end, at + dice.randint(0, 6))
        text = text[:at] + dice.choice((*PIECES, text[at:end] * 2, "")) + text[end:]
    return text


def _fences(body: str) -> list[str]:
    """The blocks between ``` with python, py or nothing behind the first, to the end of its line."""
    found, at = [], body.find("```")
    while at >= 0:
        end = -1
        for name in ("python", "py", ""):
            if body.startswith(name, at + 3):
                line = body[at + 3 + len(name) :].split("\n", 1)
                if len(line) == 2 and not line[0].strip(" \t"):
                    begin = at + 3 + len(name) + len(line[0]) + 1
                    end = body.find("```", begin)
                    break
        if end >= 0:
            found.append(body[begin:end])
        at = body.find("```", end + 3 if end >= 0 else at + 1)
    return found


def _kinds(body: str) -> list[str] | None:
    body = body.strip()
    if len(body) < 2 or body[0] != "{" or body[-1] != "}":
        return None
    names = [name.strip() for name in body[1:-1].split(",")]
    if any(len(name) < 3 or name[0] != "'" or name[-1] != "'" for name in names):
        return None
    names = {name[1:-1] for name in names}
    return sorted(names) if names <= set(KINDS) else None


def plain_reading(text: str) -> Action | None:
    """What the grammar says, without a regular expression; None: no action."""
    opened = [tag for tag in TAGS for _ in range(text.count(f"<{tag}>"))]
    if len(opened) != 1:
        return None
    [tag] = opened
    begin = text.find(f"<{tag}>") + len(tag) + 2
    end = text.find(f"</{tag}>", begin)
    body = text[begin:end] if end >= 0 else ""
    if not body.strip():
        return None
    if tag == "search":
        return ToolCall("search", {"query": " ".join(body.split())})
    if tag == "answer":
        return Answer(body.strip())
    if tag == "problem":
        kinds = _kinds(body)
        return None if kinds is None else ToolCall("diagnose", {"problems": kinds})
    blocks = _fences(body)
    return ToolCall("python", {"code": blocks[0]}) if len(blocks) == 1 and blocks[0].strip() else None


def plainly_well_formed(text: str) -> bool:
    """Whether nothing stands around one thought and one action, and no tag twice."""
    action = plain_reading(text)
    if action is None or any(text.count(f"{edge}{tag}>") > 1 for tag in ("think", *TAGS) for edge in ("<", "</")):
        return False
    text = text.strip()
    thought, _, rest = text.removeprefix("<think>").partition("</think>")
    tag = next(tag for tag in TAGS if f"<{tag}>" in text)
    return text.startswith("<think>") and rest.lstrip().startswith(f"<{tag}>") and rest.endswith(f"</{tag}>")


def check(seed: int, n_turns: int) -> dict[str | type, int]:
    """Compares so many turns; returns how often each action was read, and ``bool``: how often a turn was in form."""
    dice, counts = random.Random(seed), dict.fromkeys((*TOOLS.values(), Answer, Malformed, bool), 0)
    for _ in range(n_turns):
        text = random_turn(dice)
        action, want = SYNTAX.parse(text), plain_reading(text)
        if want is None:
            assert isinstance(action, Malformed) and action.reason and not action.tell, repr(text)
        else:
            assert action == want, repr(text)
        assert SYNTAX.is_well_formed(text) is plainly_well_formed(text), repr(text)
        counts[action.tool if isinstance(action, ToolCall) else type(action)] += 1
        counts[bool] += SYNTAX.is_well_formed(text)
    return counts


def test_the_parser_reads_20_000_fuzzed_turns_as_the_grammar_says():
    counts = check(0, 20_000)
    assert min(counts.values()) > 400, counts  # nothing is rare


@pytest.mark.slow
def test_the_parser_reads_1_000_000_fuzzed_turns_as_the_grammar_says():
    counts = check(1, 1_000_000)
    assert min(counts.values()) > 20_000, counts


PIECES_OF_LONG_TURNS = ("<think>", "</search>", "```", "```py\n", "{'dark'", "'dark',", " ", "<answer", "\n")


@pytest.mark.parametrize("piece", PIECES_OF_LONG_TURNS)
def test_no_long_turn_takes_time_that_grows_with_its_square(piece):
    many, begin = piece * 20_000, time.perf_counter()
    for text in (many, f"<think>a</think><problem>{many}</problem>", f"<code>{many}</code>"):
        assert not isinstance(SYNTAX.parse(text), ToolCall) and SYNTAX.is_well_formed(text) is False
    assert time.perf_counter() - begin < 5.0  # a few milliseconds; the square of 100,000 characters is a minute
