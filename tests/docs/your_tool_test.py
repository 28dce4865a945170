"""The page on tools of one's own: its example runs as written, in both syntaxes."""

import dataclasses
import re

import pytest

from arft_jax.build.tools import open_toolbox, plan_offer, tool_host
from arft_jax.config import default_config
from arft_jax.data.system_prompts import system_prompt
from arft_jax.protocol import ToolCall
from arft_jax.testing import tiny_rollout as tiny
from arft_jax.testing.toolboxes import context_of
from arft_jax.tools.guest import GuestOptions
from arft_jax.trajectory import ToolStatus


@pytest.fixture(scope="module")
def page(repo_root):
    return (repo_root / "docs" / "your_tool.md").read_text(encoding="utf-8")


def fenced(page, language):
    [block] = re.findall(rf"^```{language}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    return block


@pytest.fixture
def config(page, tmp_path, monkeypatch):
    """A run that has the tools of the page by the import paths of the page."""
    (tmp_path / "my_tools.py").write_text(fenced(page, "python"), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    config = default_config()
    [paths] = re.findall(r"--config.tools.extra='\((.*?)\)'", page)
    config.tools.extra = tuple(path.strip(' "') for path in paths.split(","))
    return config


def test_the_example_is_short(page):
    assert len(fenced(page, "python").splitlines()) < 40
    assert all(len(line) <= 120 for line in page.splitlines())


@pytest.mark.parametrize("syntax", ["tags", "hermes"])
def test_the_calls_of_the_page_are_served_in_both_syntaxes(page, config, syntax):
    config.tools.syntax = syntax
    host = tool_host(config, None)
    offer = plan_offer(config, host, ["chess"])
    task = tiny.tiny_task(1, "chess", sizes=[(28, 56)])
    turns = re.findall(r"^<think>[^\n]*|^<tool_call>.*?</tool_call>", fenced(page, syntax), re.DOTALL | re.MULTILINE)
    calls = [offer.syntax.parse(turn) for turn in turns]
    assert calls == [
        ToolCall("calculate", {"sum": "12 * 7"}),
        ToolCall("zoom", {"box": [0, 0, 20, 10], "image": "image_1"}),
    ]
    prompt = system_prompt("chess", "full", offer.specs(task), offer.syntax)
    assert "Works out a sum, such as 3 * (4 + 0.5)." in prompt and "Enlarges a part of a picture four times." in prompt
    with open_toolbox(config, offer, host) as box:
        context = context_of(task, task.images)

        def call(given):
            return context.admit(box.submit(given, context).result(20))

        assert call(calls[0]).text == "84"
        seen = [call(calls[1]), call(calls[1])]
        assert [reply.text for reply in seen] == ["use 1", "use 2"]
        assert [(image.name, image.size) for reply in seen for image in reply.images] == [
            ("image_2", (40, 80)), ("image_3", (40, 80)),
        ]  # fmt: skip
        broken = call(ToolCall("calculate", {"sum": "1 / 0"}))
        assert (broken.status, broken.text) == (ToolStatus.ERROR, "ZeroDivisionError: division by zero")
        assert call(ToolCall("zoom", {"box": "0, 0"})).text == "The argument 'box' must be array of number: got string."
    assert box.metrics()["tool/zoom/ok"] == 2


def test_the_statuses_and_options_of_the_page_are_those_that_there_are(page):
    assert set(re.findall(r"\| `(\w+)` \|", page)) == {"ok", "error", "limit", "infra"}
    options = page[page.index("**Set options**") : page.index("## What becomes of a call")]
    assert set(re.findall(r"`(\w+)`", options)) == {field.name for field in dataclasses.fields(GuestOptions)}
