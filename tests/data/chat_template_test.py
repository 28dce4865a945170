"""Our prompts are, id for id, what transformers makes of a chat template; templates that write tools otherwise."""

import json

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from arft_jax.build.tools import check_template, plan_offer, tool_host
from arft_jax.config import default_config
from arft_jax.data import chat, chat_template, system_prompts
from arft_jax.data.images import ImageProcessor
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.io.hf_files import tokenizer_files
from arft_jax.protocol import Answer, ToolCall
from arft_jax.syntax.hermes import HermesSyntax
from arft_jax.tools.bundled import BUNDLED
from arft_jax.trajectory import Image, Observation

SPECS = tuple(tool.spec for tool in BUNDLED.values())
SYNTAX = HermesSyntax(SPECS)
# The form of Qwen2.5-Instruct's template, written for this test, with the image marks of Qwen2.5-VL's.
QWEN_FORM = """
{%- macro body(content) %}
    {%- if content is string %}{{ content }}{% else %}
        {%- for item in content %}
            {%- if "image" in item %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}
            {%- else %}{{ item.text }}{% endif %}
        {%- endfor %}
    {%- endif %}
{%- endmacro %}
{%- set ns = namespace(rest=messages, system='You are a helpful assistant.') %}
{%- if messages[0].role == 'system' %}
    {%- set ns.system = messages[0].content %}
    {%- set ns.rest = messages[1:] %}
{%- endif %}
{{- '<|im_start|>system\\n' ~ ns.system }}
{%- if tools %}
    {{- '\\n\\n# Tools\\n\\nYou may call one or more functions to assist with the user query.' }}
    {{- '\\n\\nYou are provided with function signatures within <tools></tools> XML tags:\\n<tools>' }}
    {%- for tool in tools %}{{ '\\n' }}{{ tool | tojson }}{% endfor %}
    {{- '\\n</tools>\\n\\nFor each function call, return a json object with function name and arguments within ' }}
    {{- '<tool_call></tool_call> XML tags:\\n<tool_call>\\n{"name": <function-name>, ' }}
    {{- '"arguments": <args-json-object>}\\n</tool_call>' }}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- for message in ns.rest %}
    {%- if message.role == 'tool' %}
        {%- if loop.first or loop.previtem.role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}
        {{- '\\n<tool_response>\\n' }}{{ body(message.content) }}{{ '\\n</tool_response>' }}
        {%- if loop.last or loop.nextitem.role != 'tool' %}{{ '<|im_end|>\\n' }}{% endif %}
    {%- elif message.tool_calls %}
        {{- '<|im_start|>assistant' }}
        {%- if message.content %}{{ '\\n' ~ message.content }}{% endif %}
        {%- for call in message.tool_calls %}
            {{- '\\n<tool_call>\\n{"name": "' ~ call.function.name ~ '", "arguments": ' }}
            {{- call.function.arguments | tojson }}{{ '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' ~ message.role ~ '\\n' }}{{ body(message.content) }}{{ '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""
NO_TOOLS = (  # as Qwen2.5-VL's: tools are left out
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def files():
    """The tiny tokenizer, but as Qwen's newlines that touch stand together and two are one token."""
    files = tokenizer_files()
    layout = json.loads(files["tokenizer.json"])
    model, newline = layout["model"], "\u010a"
    layout["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\s*\n+|\S+|\s+"
    model["vocab"][newline * 2] = model["vocab"].pop("".join(model["merges"].pop()))
    model["merges"].insert(0, [newline, newline])
    return files | {"tokenizer.json": json.dumps(layout).encode()}


@pytest.fixture(scope="module")
def tokenizer(files):
    made = Tokenizer(files["tokenizer.json"].decode())
    assert len(made.encode("\n\n")) == 1
    return made


@pytest.fixture(scope="module")
def processor():
    return ImageProcessor(28 * 28, 56 * 56)


@pytest.fixture(scope="module", params=["tiny", "qwen"])
def theirs(request, tmp_path_factory, files):
    """theirs(messages, tools, image lengths) -> ids, by transformers alone."""
    folder = tmp_path_factory.mktemp(request.param)
    for name, contents in files.items():
        (folder / name).write_bytes(contents)
    fast = PreTrainedTokenizerFast.from_pretrained(folder)
    if request.param == "qwen":
        fast.chat_template = QWEN_FORM
    assert fast.chat_template

    def ids(messages, tools, lengths):
        text = fast.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=True)
        first, *others = text.split("<|image_pad|>")
        assert len(others) == len(lengths)
        text = first + "".join("<|image_pad|>" * n + rest for n, rest in zip(lengths, others, strict=True))
        return fast(text, add_special_tokens=False)["input_ids"]

    return ids


def image(height, width):
    return Image(np.zeros((height, width, 3), np.uint8), "image_1")


def content(images, text):
    """OpenAI's form: parts where there are images, else the text."""
    return [*({"type": "image", "image": "x"} for _ in images), {"type": "text", "text": text}] if images else text


QUESTIONS = (
    "What number?",
    "\n\n  What\tnumber? \n",
    "里面写着什么?é e\u0301 \U0001f98a",
    "1\n2",
    "a <b> \"c\" 'd' \\ {e}",
)
REPLIES = ("seen", "\n\nseen\n", "", "  <information> 1. Content: 中文 </information>", "<tool_response>")


@pytest.mark.parametrize("n_images", [0, 1, 2])
@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("specs", [SPECS, SPECS[:1], ()], ids=len)
def test_a_prompt_is_that_of_transformers(tokenizer, processor, theirs, n_images, question, specs):
    images, system = [image(28, 56), image(56, 56)][:n_images], "Be brief.\nAlways."
    ours = chat.prompt_segment(tokenizer, processor, SYNTAX.system(system, specs), question, images)
    messages = [dict(role="system", content=system), dict(role="user", content=content(images, question))]
    assert ours.tokens.tolist() == theirs(messages, [spec.schema for spec in specs] or None, ours.image_lens)


@pytest.mark.parametrize("kind", ["coding", "search"])
@pytest.mark.parametrize("style", ["full", "short"])
def test_the_system_text_of_a_task_is_the_system_message_of_transformers(tokenizer, processor, theirs, kind, style):
    specs = [BUNDLED[name].spec for name in system_prompts.USUAL[kind]]
    whole = system_prompts.system_prompt(kind, style, specs, SYNTAX)
    plain = whole.split("\n\n# Tools\n\n")[0]
    assert "<" not in plain and plain
    ours = chat.prompt_segment(tokenizer, processor, whole, "?", ())
    messages = [dict(role="system", content=plain), dict(role="user", content="?")]
    assert ours.tokens.tolist() == theirs(messages, [spec.schema for spec in specs], ())


CALLS = [
    ToolCall("search", {"query": 'red "fox" <é> 中文'}),
    ToolCall("diagnose", {"problems": ["dark", "blur"]}),
    ToolCall("python", {"code": "x = 1\nprint('</tool> \\n')\n"}),
    ToolCall("crop", {"box": [0, 0.5, 10, 1e-9], "image": "image_1"}),
]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.tool)
@pytest.mark.parametrize("thought", ["", "I look.\nThen I say."])
@pytest.mark.parametrize("n_images", [0, 1, 2])
def test_a_call_and_its_reply_are_those_of_transformers(tokenizer, processor, theirs, call, thought, n_images):
    for question, reply in zip(QUESTIONS, REPLIES, strict=True):
        shown = [image(56, 28), image(28, 28)][:n_images]
        seen = Observation(reply, tuple(shown))
        prompt = chat.prompt_segment(tokenizer, processor, SYNTAX.system("Be brief.", SPECS), question, [image(28, 28)])
        turn = SYNTAX.write(call, thought)
        behind = chat.observation_segment(tokenizer, processor, seen, SYNTAX.reply)
        last = tokenizer.encode(SYNTAX.write(Answer("7")))
        ours = [*prompt.tokens.tolist(), *tokenizer.encode(turn), *behind.tokens.tolist(), *last]
        function = {"name": call.tool, "arguments": dict(call.arguments)}
        messages = [
            dict(role="system", content="Be brief."),
            dict(role="user", content=content([1], question)),
            dict(
                role="assistant",
                content=f"<think>{thought}</think>" if thought else "",
                tool_calls=[dict(type="function", function=function)],
            ),
            dict(role="tool", name=call.tool, content=content(shown, reply)),
        ]
        got = theirs(messages, [spec.schema for spec in SPECS], prompt.image_lens + behind.image_lens)
        assert ours == got + last


# ------------------------------------------------------------------ templates of directories


def test_the_tiny_tokenizers_directory_has_a_template_that_writes_tools(tokenizer, tmp_path):
    for name, contents in tokenizer_files().items():
        (tmp_path / name).write_bytes(contents)
    template = chat_template.read_template(tmp_path)
    assert template == chat_template.tiny_template()
    chat_template.check_tools(template, tokenizer, tmp_path)
    chat_template.check_tools(QWEN_FORM, tokenizer, tmp_path)


def test_replies_that_follow_one_another_share_a_turn_in_both_templates():
    messages = [
        dict(role="user", content="?"),
        dict(
            role="assistant",
            content="a",
            tool_calls=[dict(name="x", arguments='{"q": 1}'), dict(name="y", arguments={})],
        ),
        dict(role="tool", content="1"),
        dict(role="tool", content="2"),
        dict(role="assistant", content="b"),
    ]
    ours = chat_template.render(chat_template.tiny_template(), messages, goes_on=False)
    assert ours == (
        "<|im_start|>user\n?<|im_end|>\n<|im_start|>assistant\na\n"
        '<tool_call>\n{"name": "x", "arguments": {"q": 1}}\n</tool_call>\n'
        '<tool_call>\n{"name": "y", "arguments": {}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\nb<|im_end|>\n"
    )


def test_a_template_is_read_from_any_of_its_homes(tmp_path):
    assert chat_template.read_template(tmp_path) == ""
    config = tmp_path / "tokenizer_config.json"
    config.write_text("{}")
    assert chat_template.read_template(tmp_path) == ""
    config.write_text(json.dumps({"chat_template": "c"}))
    assert chat_template.read_template(tmp_path) == "c"
    named = [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]
    config.write_text(json.dumps({"chat_template": named}))
    assert chat_template.read_template(tmp_path) == "t"
    config.write_text(json.dumps({"chat_template": named[:1]}))
    assert chat_template.read_template(tmp_path) == "d"
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "b"}))
    assert chat_template.read_template(tmp_path) == "b"
    (tmp_path / "chat_template.jinja").write_text("a")
    assert chat_template.read_template(tmp_path) == "a"
    (tmp_path / "chat_template.jinja").unlink()
    for broken in ("{", "[]", '{"chat_template": [{"name": "default"}]}'):
        (tmp_path / "chat_template.json").write_text(broken)
        with pytest.raises(
            ValueError, match=rf"the chat template of {tmp_path} must be readable: .*\(config.tokenizer\)$"
        ):
            chat_template.read_template(tmp_path)


BAD = {
    "no tools": (NO_TOOLS, "it leaves tools out"),
    "other words": (QWEN_FORM.replace("# Tools", "# Functions"), "it writes 'Functions.* in place of 'Tools"),
    "other marks": (
        QWEN_FORM.replace("<tool_response>", "<result>"),
        "it writes 'result>.* in place of 'tool_resp",
    ),
    "escaped letters": (QWEN_FORM.replace("arguments | tojson", "arguments | tojson(ensure_ascii=True)"), "u00e9"),
    "a template that fails": ("{{ raise_exception('no tools here') }}", "it fails with TemplateError: no tools here"),
    "no template": ("{% if %}", "it fails with TemplateSyntaxError"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_template_that_writes_tools_otherwise_is_one_sentence_with_the_key(tokenizer, tmp_path, case):
    template, why = BAD[case]
    for name, contents in tokenizer_files().items():
        (tmp_path / name).write_bytes(contents)
    (tmp_path / chat_template.FILE_NAME).write_text(template)
    config = default_config()
    config.tokenizer = str(tmp_path)
    config.tools.syntax = "hermes"
    offer = plan_offer(config, tool_host(config, None), ["coding"])
    sentence = rf"^the chat template of {tmp_path} must write tools [^\n]*{why}[^\n]*\(config.tools.syntax; .*\)$"
    with pytest.raises(ValueError, match=sentence):
        check_template(config, tokenizer, offer)
    config.chat_template = "hermes"
    check_template(config, tokenizer, offer)
    config.chat_template, config.tools.syntax = "", "tags"
    check_template(config, tokenizer, plan_offer(config, tool_host(config, None), ["coding"]))
    config.tools.syntax = "hermes"
    check_template(config, tokenizer, plan_offer(config, tool_host(config, None), ["chess"]))  # nothing to call
