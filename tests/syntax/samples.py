"""Calls of the bundled tools and of two guests, drawn at random: what the tests of the syntaxes write and read."""

import random
import string

from arft_jax.protocol import KINDS, Action, Answer, ToolCall
from arft_jax.syntax.spec import ToolSpec
from arft_jax.tools.bundled import BUNDLED

ZOOM = ToolSpec(
    "zoom",
    "Enlarges a part.",
    {
        "type": "object",
        "properties": {
            "factor": {"type": "number", "description": "How much."},
            "of": {"type": "string", "description": "Which."},
            "mode": {"type": "string", "enum": ["near", "smooth"], "description": "How."},
        },
        "required": ["factor"],
    },
    "zoom",
)
NOTE = ToolSpec(
    "note",
    "Keeps a text.",
    {"type": "object", "properties": {"text": {"type": "string", "description": "What."}}, "required": ["text"]},
    "note",
)
SPECS = (*(tool.spec for tool in BUNDLED.values()), ZOOM, NOTE)
PIECES = (
    *string.ascii_letters, "</", "<", ">", "<answer>", "</answer>", "<zoom>", "</zoom>", "<tool_call>", "</tool_call>",
    "<tool_response>", "<think>", "</think>", "\\", '"', "'", "{", "}", "\n", "\t", "\x00", "\u2028", "中文",
    "\U0001f98a", "é", "e\u0301", "<|im_end|>", "\\u003c", "```", "\ufffd",
)  # fmt: skip
PLAIN = tuple(piece for piece in PIECES if "<" not in piece and "`" not in piece)


def words(dice: random.Random, pieces=PLAIN, n: int = 12) -> str:
    """A text with something in it, single spaces between its words."""
    return " ".join("".join(dice.choices(pieces, k=n)).split()) or "a"


def random_action(dice: random.Random, wild=PIECES) -> Action:
    """A call of a random tool, or an answer; ``wild`` texts stand where JSON holds them."""
    pick = dice.randrange(len(SPECS) + 1)
    if pick == len(SPECS):
        return Answer(words(dice).strip())
    name = SPECS[pick].name
    if name == "diagnose":
        return ToolCall(name, {"problems": sorted(dice.sample(KINDS, dice.randint(1, 3)))})
    if name == "python":
        return ToolCall(name, {"code": f"x = 1\n{words(dice)}\n"})
    if name == "crop":
        box = [dice.choice((dice.randint(-5, 1000), dice.random())) for _ in range(4)]
        return ToolCall(
            name, {"box": box} | ({"image": "".join(dice.choices(wild, k=5))} if dice.random() < 0.5 else {})
        )
    if name == "zoom":
        more = {"of": "".join(dice.choices(wild, k=8)), "mode": dice.choice(("near", "smooth"))}
        return ToolCall(
            name, {"factor": dice.choice((2, 0.5, 1e-9, -(10**20)))} | (more if dice.random() < 0.7 else {})
        )
    return ToolCall(name, {"text" if name == "note" else "query": words(dice)})
