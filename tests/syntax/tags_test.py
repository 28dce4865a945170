"""The paper's syntax with any tools: what is read, told, written, refused."""

import importlib.util
import pathlib
import random
import time

import pytest

from arft_jax.protocol import Answer, Malformed, ToolCall
from arft_jax.syntax.spec import ToolSpec
from arft_jax.syntax.tags import TagSyntax
from arft_jax.tools.bundled import paper_syntax

_spec = importlib.util.spec_from_file_location("syntax_samples", pathlib.Path(__file__).with_name("samples.py"))
samples = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(samples)
SYNTAX = TagSyntax(samples.SPECS)


def test_what_is_written_is_read_and_in_form_for_2000_calls_of_every_tool():
    dice, seen = random.Random(0), set()
    for _ in range(2000):
        action, thought = samples.random_action(dice), samples.words(dice)
        text = SYNTAX.write(action, thought)
        assert SYNTAX.parse(text) == action, text
        assert SYNTAX.is_well_formed(text) and text.startswith(f"<think>{thought}</think><")
        assert sum(text.count(stop) for stop in SYNTAX.stops) == 1 and text.endswith(SYNTAX.stops)
        seen.add(getattr(action, "tool", "answer"))
    assert seen == {*(spec.name for spec in samples.SPECS), "answer"}


def test_the_papers_turns_are_written_as_in_the_paper():
    syntax = paper_syntax()
    assert syntax.write(ToolCall("diagnose", {"problems": ["rotation90", "dark"]}), "a") == (
        "<think>a</think><problem>{'rotation90', 'dark'}</problem>"
    )
    assert syntax.write(ToolCall("python", {"code": "x = 1\n"})) == (
        "<think></think><code>```python\nx = 1\n```</code>"
    )
    assert syntax.write(ToolCall("search", {"query": "red fox"}), "b") == "<think>b</think><search>red fox</search>"
    assert syntax.write(Answer("7"), "c") == "<think>c</think><answer>7</answer>"
    assert syntax.stops == ("</search>", "</problem>", "</code>", "</answer>")
    assert syntax.system("As it is.", syntax.specs) == "As it is." and syntax.reply("seen") == ("", "seen")


@pytest.mark.parametrize(
    ("text", "sentence", "tell"),
    [
        ("<zoom>2</zoom>", "The arguments must be one JSON object: got integer.", True),
        ("<zoom>{'factor': 2}</zoom>", "The arguments must be one JSON object.", True),
        ("<zoom>{}</zoom>", "The argument 'factor' is missing.", True),
        ("<zoom> </zoom>", "<zoom> is empty", True),
        ('<zoom>{"factor": 2, "mode": "odd"}</zoom>', "must be one of near, smooth: got string.", True),
        ('<crop>{"box": [0, 0, "9", 9]}</crop>', "The argument 'box' must be array of number: got array.", True),
        ("<search> </search>", "<search> is empty", False),
        ("<problem>dark</problem>", "<problem> must hold a set", False),
        ("<code>x = 1</code>", "<code> must hold exactly one fenced python block", False),
        ("<answer> </answer>", "<answer> is empty", False),
        ("", "no action tag", False),
        ('<zoom>{"factor": 2}', "<zoom> is not closed", False),
        ('<zoom>{"factor": 2}</zoom><zoom>{"factor": 2}</zoom>', "more than one action tag", False),
    ],
)
def test_a_turn_that_cannot_be_read_says_why_and_guests_are_told(text, sentence, tell):
    action = SYNTAX.parse(f"<think>a</think>{text}")
    assert isinstance(action, Malformed) and sentence in action.reason and action.tell is tell
    assert not SYNTAX.is_well_formed(f"<think>a</think>{text}")


@pytest.mark.parametrize(
    ("action", "thought", "message"),
    [
        (ToolCall("paint", {}), "", "a call of one of diagnose, python, .*note: got ToolCall"),
        (Malformed("x"), "", "must be an answer or a call of one of"),
        (ToolCall("zoom", {"factor": "2"}), "", r"<zoom> can hold \(The argument 'factor' must be number"),
        (ToolCall("note", {"text": "a</note>b"}), "", "must hold no other tag"),
        (ToolCall("search", {"query": "a <answer>"}), "", "must hold no other tag"),
        (ToolCall("python", {"code": "x = '```'\n"}), "", "<code> can hold .*the code must not hold"),
        (Answer("7"), "I <answer> now", "must hold no other tag"),
        (Answer(" "), "", "must hold no other tag"),
    ],
)
def test_what_cannot_be_written_is_refused(action, thought, message):
    with pytest.raises(ValueError, match=message):
        SYNTAX.write(action, thought)


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (
            (samples.ZOOM, samples.ZOOM),
            r"must differ in name and tag: got zoom <zoom>, zoom <zoom> \(config",
        ),
        ((ToolSpec("a", "", {}, "answer"),), r"not answer or think: got 'answer' of a \(config.tools.extra\)"),
        ((ToolSpec("a", "", {}, "think"),), "got 'think'"),
        ((ToolSpec("a", "", {}, "A b"),), "plain lower-case word.* got 'A b'"),
        ((ToolSpec("a", "", {}, "x"), ToolSpec("b", "", {}, "x")), "must differ in name and tag"),
    ],
)
def test_tags_that_clash_are_refused(specs, message):
    with pytest.raises(ValueError, match=message):
        TagSyntax(specs)


WORST = (
    "<think>", "</think>", "</zoom>", "<zoom", "<", "{", '"', "[", "\\", "```", "```py\n", "'dark',", "{'dark'",
    " ", "\n",
)  # fmt: skip


@pytest.mark.parametrize("piece", WORST)
def test_a_megabyte_of_the_worst_characters_is_read_in_time_that_grows_with_it(piece):
    many, begin = piece * (1_000_000 // len(piece)), time.perf_counter()
    for text in (
        many,
        f"<think>a</think><zoom>{many}</zoom>",
        f"<think>a</think><code>{many}",
        f"<problem>{many}</problem>",
    ):
        SYNTAX.is_well_formed(text)
    assert time.perf_counter() - begin < 5.0  # tens of milliseconds each; a square would be hours
