"""The Hermes syntax: what is read, told, written, refused."""

import importlib.util
import json
import pathlib
import random
import time

import pytest

from arft_jax.protocol import Answer, Malformed, ToolCall
from arft_jax.syntax.hermes import HermesSyntax
from arft_jax.syntax.spec import ToolSpec

_spec = importlib.util.spec_from_file_location("syntax_samples", pathlib.Path(__file__).with_name("samples.py"))
samples = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(samples)
SYNTAX = HermesSyntax(samples.SPECS)
NAMES = "diagnose, python, search, image_search, crop, zoom, note"


def call(body, before="", behind=""):
    return f"{before}<tool_call>\n{body if isinstance(body, str) else json.dumps(body)}\n</tool_call>{behind}"


def test_what_is_written_is_read_and_in_form_for_2000_calls_of_every_tool():
    dice, seen = random.Random(0), set()
    for _ in range(2000):
        action, thought = samples.random_action(dice), dice.choice(("", samples.words(dice)))
        text = SYNTAX.write(action, thought)
        assert SYNTAX.parse(text) == action and SYNTAX.is_well_formed(text), text
        assert text.count("</tool_call>") == text.endswith("</tool_call>") == isinstance(action, ToolCall)
        assert text.startswith(f"<think>{thought}</think>\n") or not thought
        seen.add(getattr(action, "tool", "answer"))
    assert seen == {*(spec.name for spec in samples.SPECS), "answer"}


def test_a_call_is_written_as_qwens_template_writes_it():
    text = SYNTAX.write(ToolCall("search", {"query": 'a "fox" <é>'}))
    assert text == '<tool_call>\n{"name": "search", "arguments": {"query": "a \\"fox\\" <é>"}}\n</tool_call>'
    assert SYNTAX.stops == ("</tool_call>",)
    assert SYNTAX.reply("seen") == ("<tool_response>\n", "seen\n</tool_response>")


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("The answer is 7.", Answer("The answer is 7.")),
        ("<think>a\nb</think>\n\n 7 \n", Answer("7")),
        ("7 <think>later</think>", Answer("7 <think>later</think>")),
        (call({"name": "search", "arguments": {"query": "fox"}}), ToolCall("search", {"query": "fox"})),
        (call({"name": "search", "arguments": {"query": "fox"}}, "I look.\n"), ToolCall("search", {"query": "fox"})),
        (call({"name": "search", "arguments": '{"query": "fox"}'}), ToolCall("search", {"query": "fox"})),
        (call('{"arguments":{"query":"fox"},"name":"search","id":3}'), ToolCall("search", {"query": "fox"})),
    ],
)  # fmt: skip
def test_what_is_read(text, want):
    assert SYNTAX.parse(text) == want


@pytest.mark.parametrize(
    ("text", "sentence", "tell"),
    [
        (call("{"), 'A call must be a JSON object {"name": ..., "arguments": {...}}.', True),
        (call("search(fox)"), 'A call must be a JSON object {"name": ..., "arguments": {...}}.', True),
        (call(["search"]), 'A call must be a JSON object {"name": ..., "arguments": {...}}.', True),
        (call(""), 'A call must be a JSON object {"name": ..., "arguments": {...}}.', True),
        (call({"name": "paint", "arguments": {}}), f"There is no tool of that name. Tools: {NAMES}.", True),
        (call({"name": ["search"], "arguments": {}}), f"There is no tool of that name. Tools: {NAMES}.", True),
        (call({"arguments": {}}), f"There is no tool of that name. Tools: {NAMES}.", True),
        (call({"name": "search"}), "The argument 'query' is missing.", True),
        (call({"name": "search", "arguments": [1]}), "The arguments must be one JSON object.", True),
        (call({"name": "search", "arguments": "fox"}), "The arguments must be one JSON object.", True),
        (call({"name": "search", "arguments": {"query": 7}}), "'query' must be string: got integer.", True),
        (call({"name": "search", "arguments": {"q": "a"}}), "There is no argument 'q'. Arguments: query.", True),
        (call({"name": "diagnose", "arguments": {"problems": ["fog"]}}), "must be array of string: got array.", True),
        (call('{"name": "zoom", "arguments": {"factor": NaN}}'), "A call must be a JSON object", True),
        (call('{"name": "zoom", "arguments": {"factor": 1e999}}'), "'factor' must be number: got inf.", True),
        (call({"name": "search"}) * 2, "A turn must hold one <tool_call>: got 2.", True),
        ("7</tool_call>", "A turn must hold one <tool_call>: got 0.", True),
        ("</tool_call><tool_call>", "</tool_call> must stand behind <tool_call>.", True),
        ("<tool_call>\n{}", "<tool_call> is not closed", False),
        ("<tool_call><tool_call>", "<tool_call> is not closed", False),
        ("", "the turn is empty", False),
        ("<think>only</think>\n", "the turn is empty", False),
    ],
)  # fmt: skip
def test_a_turn_that_cannot_be_read_says_why(text, sentence, tell):
    action = SYNTAX.parse(text)
    assert isinstance(action, Malformed) and sentence in action.reason and action.tell is tell
    assert not SYNTAX.is_well_formed(text)


def test_words_behind_a_call_are_not_in_form():
    whole = call({"name": "search", "arguments": {"query": "fox"}})
    assert SYNTAX.is_well_formed(f"I look.\n{whole}\n") and not SYNTAX.is_well_formed(f"{whole} and more")
    assert SYNTAX.parse(f"{whole} and more") == ToolCall("search", {"query": "fox"})


@pytest.mark.parametrize(
    ("action", "thought"),
    [
        (ToolCall("paint", {}), ""),
        (Malformed("x"), ""),
        (ToolCall("zoom", {"factor": "2"}), ""),
        (Answer("a <tool_call>"), ""),
        (Answer("a </tool_call>"), ""),
        (Answer("<think>a</think>b"), ""),
        (Answer(""), ""),
        (Answer("7"), "a</think>b"),
        (ToolCall("search", {"query": "fox"}), "now </tool_call>"),
    ],
)
def test_what_cannot_be_written_is_refused(action, thought):
    with pytest.raises(ValueError, match="^a written (turn|action) must .*: got "):
        SYNTAX.write(action, thought)


def test_the_system_turn_holds_every_schema_and_none_where_there_is_no_tool():
    text = SYNTAX.system("Be brief.", samples.SPECS)
    lines = text.split("<tools>\n")[1].split("\n</tools>")[0].split("\n")
    assert text.startswith("Be brief.\n\n# Tools\n\n")
    assert [json.loads(line) for line in lines] == [spec.schema for spec in samples.SPECS]
    assert SYNTAX.system("Be brief.", ()) == "Be brief."


def test_names_that_clash_or_are_no_names_are_refused():
    with pytest.raises(ValueError, match=r"must differ in name: got zoom, zoom \(config.tools.extra\)"):
        HermesSyntax((samples.ZOOM, samples.ZOOM))
    with pytest.raises(ValueError, match=r"must be a plain word: got 'a b' \(config.tools.extra\)"):
        HermesSyntax((ToolSpec("a b", "", {}, "x"),))


WORST = (
    "<think>", "</think>", "<tool_call>", "</tool_call>", "<", "{", '{"a":', '"', "[", "\\", " ", "\n", "9", "\\ud800",
)  # fmt: skip


@pytest.mark.parametrize("piece", WORST)
def test_a_megabyte_of_the_worst_characters_is_read_in_time_that_grows_with_it(piece):
    many, begin = piece * (1_000_000 // len(piece)), time.perf_counter()
    for text in (many, call(many), f"<think>{many}", call(f'{{"name": "search", "arguments": {{"query": "{many}')):
        SYNTAX.is_well_formed(text)
    assert time.perf_counter() - begin < 5.0  # tens of milliseconds each; a square would be hours
