"""The chat template of a model's directory, and whether it writes tools as the Hermes syntax does.

Prompts are always written by ``chat.py``: a template is only compared with it, so that a model is not trained to call
tools in words that whoever serves it will not use. The template of Qwen2.5-Instruct writes tools, that of
Qwen2.5-VL-Instruct leaves them out: training a Qwen2.5-VL in the Hermes syntax takes ``config.chat_template="hermes"``,
and serving it the template that the embedded tiny tokenizer's directory has.
"""

import importlib.resources
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from arft_jax.data import chat
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.protocol import ToolCall
from arft_jax.syntax.hermes import HermesSyntax
from arft_jax.syntax.spec import ToolSpec
from arft_jax.trajectory import Observation

FILE_NAME = "chat_template.jinja"
_N_SHOWN = 40  # characters of a difference
_PROBE = ToolSpec(
    "probe",
    "Asks.",
    {"type": "object", "properties": {"text": {"type": "string", "description": "What."}}, "required": ["text"]},
    "probe",
)


def tiny_template() -> str:
    """The template of the embedded tiny tokenizer: ChatML with images and tools, as ``chat.py`` writes them."""
    asset = importlib.resources.files("arft_jax.data") / "assets" / "tiny_tokenizer" / FILE_NAME
    return asset.read_text(encoding="utf-8")


def read_template(directory: str | os.PathLike) -> str:
    """The chat template of a Hugging Face directory; empty where it has none.

    It stands in ``chat_template.jinja``, in ``chat_template.json`` or in ``tokenizer_config.json``; of several by name
    that for tools is taken, else the default.

    Raises:
      ValueError: a file that cannot be read.
    """
    folder = pathlib.Path(directory)
    try:
        if (folder / FILE_NAME).is_file():
            return (folder / FILE_NAME).read_text(encoding="utf-8")
        for name in ("chat_template.json", "tokenizer_config.json"):
            if (folder / name).is_file():
                found = json.loads((folder / name).read_text(encoding="utf-8")).get("chat_template")
                if isinstance(found, list):
                    named = {entry["name"]: entry["template"] for entry in found}
                    found = named.get("tool_use") or named.get("default")
                if found:
                    return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the chat template of {directory} must be readable: {error} (config.tokenizer)") from error
    return ""


def render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] = (),
    *,
    goes_on: bool = True,
) -> str:
    """What ``apply_chat_template`` of transformers makes of messages, as text.

    Args:
      template: Jinja.
      messages: in the form of OpenAI.
      tools: schemas.
      goes_on: the assistant's next turn is opened behind them.
    """
    from transformers.utils.chat_template_utils import render_jinja_template  # takes seconds

    [text], _ = render_jinja_template(
        [list(messages)], tools=list(tools) or None, chat_template=template, add_generation_prompt=goes_on
    )
    return text


def check_tools(template: str, tokenizer: Tokenizer, directory: str | os.PathLike) -> None:
    """Compares a call and its reply, with the tool in the system turn, in the template's words and in this package's.

    Args:
      template: of the directory.
      tokenizer: of the directory.
      directory: for the message.

    Raises:
      ValueError: the template cannot render them, leaves tools out, or writes them in other words.
    """
    syntax, call = HermesSyntax([_PROBE]), ToolCall(_PROBE.name, {"text": 'a "é" <b>'})
    prompt = chat.prompt_segment(tokenizer, None, syntax.system("Be brief.", (_PROBE,)), "Who?", ())
    reply = chat.observation_segment(tokenizer, None, Observation("Ann."), syntax.reply)
    ours = tokenizer.decode(prompt.tokens) + syntax.write(call) + tokenizer.decode(reply.tokens)
    function = {"name": call.tool, "arguments": dict(call.arguments)}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]},
        {"role": "tool", "name": call.tool, "content": "Ann."},
    ]
    try:
        theirs = render(template, messages, [_PROBE.schema])
    except Exception as error:  # a template raises what it likes
        raise _refusal(directory, f"it fails with {type(error).__name__}: {error}") from error
    if theirs == ours:
        return
    if _PROBE.description not in theirs:
        raise _refusal(directory, "it leaves tools out")
    at = len(os.path.commonprefix([theirs, ours]))
    difference = f"it writes {theirs[at : at + _N_SHOWN]!r} in place of {ours[at : at + _N_SHOWN]!r}"
    raise _refusal(directory, f"behind {ours[max(at - _N_SHOWN, 0) : at]!r} {difference}")


def _refusal(directory: str | os.PathLike, why: str) -> ValueError:
    why = " ".join(why.split())
    return ValueError(
        f"the chat template of {directory} must write tools as the Hermes syntax does: {why} (config.tools.syntax; "
        'config.chat_template="hermes" trains without it)'
    )
