"""What a tool's schema allows, and what the policy is told of the rest."""

import json

import pytest

from arft_jax.syntax.spec import BadCall, ToolSpec, check_arguments, read_json

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "n": {"type": "integer"},
        "x": {"type": "number"},
        "on": {"type": "boolean"},
        "box": {"type": "array", "items": {"type": "number"}},
        "size": {"type": "string", "enum": ["small", "large"]},
        "rows": {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
        "maybe": {"type": "integer", "nullable": True},
        "either": {"type": ["integer", "string"]},
        "any_of": {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "string"}}]},
        "level": {"enum": [1, 2]},
        "more": {"type": "object"},
        "free": {},
    },
    "required": ["name"],
}


@pytest.mark.parametrize(
    "arguments",
    [
        dict(n=-3), dict(x=2), dict(x=0.5), dict(on=True), dict(box=[]), dict(box=[1, 0.5]), dict(size="large"),
        dict(rows=[[1], []]), dict(maybe=None), dict(maybe=4), dict(either="a"), dict(either=1), dict(any_of=3),
        dict(any_of=["a"]), dict(level=2), dict(more={"a": [None]}), dict(free=[{}, None]), dict(n=10**30),
    ],
    ids=str,
)  # fmt: skip
def test_what_the_schema_allows_comes_back_as_it_is(arguments):
    arguments = {"name": "a"} | arguments
    assert check_arguments(SCHEMA, arguments) == arguments
    assert check_arguments(SCHEMA, json.loads(json.dumps(arguments))) == arguments


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (dict(n=True), "The argument 'n' must be integer: got boolean."),
        (dict(n=2.0), "The argument 'n' must be integer: got number."),
        (dict(x=False), "The argument 'x' must be number: got boolean."),
        (dict(x="2"), "The argument 'x' must be number: got string."),
        (dict(x=float("nan")), "The argument 'x' must be number: got nan."),
        (dict(x=float("inf")), "The argument 'x' must be number: got inf."),
        (dict(on=1), "The argument 'on' must be boolean: got integer."),
        (dict(box=[1, "2"]), "The argument 'box' must be array of number: got array."),
        (dict(box=[1, float("-inf")]), "The argument 'box' must be array of number: got array."),
        (dict(box=[True]), "The argument 'box' must be array of number: got array."),
        (dict(box="1, 2"), "The argument 'box' must be array of number: got string."),
        (dict(size="huge"), "The argument 'size' must be one of small, large: got string."),
        (dict(size=["small"]), "The argument 'size' must be one of small, large: got array."),
        (dict(rows=[[1], [0.5]]), "The argument 'rows' must be array of array: got array."),
        (dict(maybe="4"), "The argument 'maybe' must be integer: got string."),
        (dict(n=None), "The argument 'n' must be integer: got null."),
        (dict(either=[1]), "The argument 'either' must be integer or string: got array."),
        (dict(any_of=[1]), "The argument 'any_of' must be integer or array of string: got array."),
        (dict(level=3), "The argument 'level' must be one of 1, 2: got integer."),
        (dict(more=[]), "The argument 'more' must be object: got array."),
        (dict(nam="b"), "There is no argument 'nam'. Arguments: name, n, "),
    ],
    ids=str,
)
def test_the_first_fault_is_named(arguments, sentence):
    with pytest.raises(BadCall) as caught:
        check_arguments(SCHEMA, {"name": "a"} | arguments)
    assert str(caught.value).startswith(sentence)


def test_a_missing_argument_is_named_and_a_tool_without_arguments_takes_none():
    with pytest.raises(BadCall, match="^The argument 'name' is missing.$"):
        check_arguments(SCHEMA, {"n": 1})
    assert check_arguments({"type": "object", "properties": {}}, {}) == {}
    with pytest.raises(BadCall, match="^There is no argument 'n'. Arguments: none.$"):
        check_arguments({"type": "object"}, {"n": 1})


@pytest.mark.parametrize(
    "text",
    ["", "{", "{} {}", "{'a': 1}", '{"a": NaN}', '{"a": -Infinity}', "[" * 100_000, '{"a": ' + "9" * 5000 + "}"],
    ids=lambda text: text[:20],
)
def test_what_is_no_json_is_refused(text):
    with pytest.raises(BadCall, match="^The arguments must be one JSON object.$"):
        read_json(text)


def test_what_is_no_object_is_named_and_half_a_surrogate_pair_is_no_text():
    with pytest.raises(BadCall, match="must be one JSON object: got array."):
        read_json("[1]")
    assert read_json(' {"a": "\\ud83e\\udd8a"}\n') == {"a": "\U0001f98a"}
    for text in ('{"a": "\\ud83e"}', '{"\\udd8a": 1}', '{"a": [["x\\ud800y"]]}'):
        with pytest.raises(BadCall, match="must be one JSON object"):
            read_json(text)


def test_a_number_beyond_the_largest_is_refused_by_the_schema():
    with pytest.raises(BadCall, match="must be number: got inf"):
        check_arguments(SCHEMA, {"name": "a"} | read_json('{"x": 1e999}'))


def test_the_line_of_a_tool_says_how_to_call_it():
    text = {"properties": {"query": {"type": "string", "description": "What to find"}}, "required": ["query"]}
    spec = ToolSpec("find", "Finds things", text, "find")
    assert spec.prompt_line == ("<find>...</find> holds its query. Finds things. query (string): What to find.")
    image = {"type": "string", "description": "Which"}
    zoom = {
        "properties": {"factor": {"type": "number", "description": "How much?"}, "image": image},
        "required": ["factor"],
    }
    assert ToolSpec("zoom", "Zooms.", zoom, "zoom").prompt_line == (
        "<zoom>...</zoom> holds a JSON object of its arguments. Zooms. factor (number): How much? "
        "image (string, may be left out): Which."
    )
    clock = ToolSpec("clock", "Tells the time.", {"properties": {}}, "clock")
    assert clock.prompt_line == "<clock>...</clock> holds a JSON object of its arguments. Tells the time."
    assert ToolSpec("a", "b", {}, "a", line="As it is").prompt_line == "As it is"


def test_one_needed_text_stands_alone_and_anything_else_as_json():
    text = {"properties": {"query": {"type": "string"}}, "required": ["query"]}
    one = ToolSpec("find", "", text, "find")
    assert one.read(" a b\n") == {"query": "a b"} and one.write({"query": "a b"}) == "a b"
    may = ToolSpec("find", "", text | {"required": []}, "find")
    assert may.read('{"query": "a"}') == {"query": "a"} and may.read("{}") == {} and may.write({}) == "{}"
    with pytest.raises(BadCall, match="must be one JSON object"):
        may.read("a b")
    assert may.write({"query": "</find><answer>é"}) == '{"query": "\\u003c/find>\\u003canswer>é"}'
    assert may.read(may.write({"query": "</find>é"})) == {"query": "</find>é"}


def test_the_schema_is_that_of_chat_templates():
    spec = ToolSpec("find", "Finds.", {"type": "object", "properties": {}}, "find")
    assert spec.schema == {
        "type": "function",
        "function": {"name": "find", "description": "Finds.", "parameters": {"type": "object", "properties": {}}},
    }
