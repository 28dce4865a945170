"""System prompts: the paper's agents' as they always were, and every tool that is offered announced."""

import hashlib
import itertools

import pytest

from arft_jax.data.system_prompts import USUAL, system_prompt
from arft_jax.protocol import INPUT_NAME, KINDS, OUTPUT_NAME
from arft_jax.syntax.hermes import HermesSyntax
from arft_jax.syntax.spec import ToolSpec
from arft_jax.syntax.tags import TagSyntax
from arft_jax.tools.bundled import BUNDLED, paper_syntax

CLOCK = ToolSpec("clock", "Tells the time.", {"type": "object", "properties": {}}, "clock")
SPECS = {tool.name: tool.spec for tool in BUNDLED.values()} | {"clock": CLOCK}
TAGS, HERMES = TagSyntax(SPECS.values()), HermesSyntax(SPECS.values())
SHA256 = {  # of the prompts that the published runs were trained with
    ("coding", "full"): "57f0a90dcaaad54eac7fbde0a34ff52034de4218640ab068bbe089acf9a37b66",
    ("search", "full"): "0c5ce13b50b099e092167b1a1e77472f9011f7e46e33016d0ded8d355a1cef60",
}


def prompt(kind, style, names, syntax=TAGS, text=None):
    return system_prompt(kind, style, [SPECS[name] for name in names], syntax, text)


@pytest.mark.parametrize("kind", USUAL)
def test_the_papers_agents_are_told_what_they_always_were(kind):
    specs = [SPECS[name] for name in USUAL[kind]]
    full = system_prompt(kind, "full", specs, paper_syntax())
    assert hashlib.sha256(full.encode()).hexdigest() == SHA256[kind, "full"]
    short = {"coding": "Fix, then answer.", "search": "Search, then answer."}[kind]
    assert system_prompt(kind, "short", specs, paper_syntax()) == short


def test_the_full_prompts_name_every_tag_kind_and_file():
    full = prompt("coding", "full", USUAL["coding"])
    assert all(word in full for word in (*KINDS, INPUT_NAME, OUTPUT_NAME, "1000", "<answer>", "<think>"))
    assert all(word in prompt("search", "full", USUAL["search"]) for word in ("<search>", "<information>"))


@pytest.mark.parametrize("kind", ["coding", "search", "chess"])
def test_every_offered_tool_is_announced_in_full_and_no_other_one(kind):
    for n in range(len(SPECS) + 1):
        for names in itertools.combinations(SPECS, n):
            text = prompt(kind, "full", names)
            lines = text.split("\n")
            assert [name for name in SPECS if SPECS[name].prompt_line in lines] == list(names)
            assert lines.index("<answer>...</answer> gives the final answer, as short as it can be.") > 0


@pytest.mark.parametrize("kind", ["coding", "search", "chess"])
def test_in_short_what_the_kind_does_not_have_anyway_is_announced(kind):
    lines = prompt(kind, "short", SPECS).split("\n")
    assert lines[1:] == [SPECS[name].prompt_line for name in SPECS if name not in USUAL.get(kind, ())]
    assert lines[0] == {"coding": "Fix, then answer.", "search": "Search, then answer."}.get(kind, "Answer.")


def test_a_text_of_ones_own_stands_before_the_tools():
    lines = prompt("coding", "short", ("crop", "clock"), text="You read meters.").split("\n")
    assert lines[0] == "You read meters." and lines[2:4] == [SPECS["crop"].prompt_line, CLOCK.prompt_line]
    assert lines[-1].startswith("<answer>...</answer>") and len(lines) == 5
    placed = prompt("coding", "short", ("crop", "clock"), text="{tools}\nYou read meters.").split("\n")
    assert placed == [*lines[1:], lines[0]]
    own = prompt("coding", "full", ("crop",), HERMES, "You read meters.\n{tools}")
    assert own == HERMES.system("You read meters.", (SPECS["crop"],))


@pytest.mark.parametrize("style", ["full", "short"])
@pytest.mark.parametrize("kind", ["coding", "search", "chess"])
def test_in_hermes_the_tools_stand_in_their_section_and_no_tag_in_the_text(kind, style):
    text = prompt(kind, style, SPECS, HERMES)
    plain, section = text.split("\n\n# Tools\n\n")
    assert all(f'"name": "{name}"' in section for name in SPECS) and plain
    assert not any(f"<{tag}>" in plain for tag in (*TAGS.tags, "think"))
    assert prompt(kind, style, (), HERMES).count("<") == 0


def test_a_style_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match=r"must be full or short: got 'long' \(config.system_prompt\)"):
        prompt("coding", "long", ())
