"""Pages let in their own style and script by hash and nothing else, and text from outside moves nothing beside it."""

import base64
import hashlib
import html.parser

import numpy as np
import pytest

from arft_jax.report import page, plots, trajectories
from arft_jax.testing.toolboxes import turn_of
from arft_jax.trajectory import Image, Observation, Status, Task, ToolCall, ToolStatus, Trajectory, Turn

TURNING = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
HIDDEN = (*range(9), *range(11, 32), *range(127, 160), *TURNING)
MARK = "EVIL"
EVIL = f"{MARK}<script>alert(1)</script><b onclick=x style='color:red'>{''.join(map(chr, HIDDEN))}\u05d0\u05d1"
RESULTS = {EVIL: {"before": {"avg": {"f1": 1.0, "em": 2.0, "ci95": None}}}}
VOID = ("meta", "img", "br")
PLAIN_TEXT = ("title",)  # a browser isolates the title of a window


class Reader(html.parser.HTMLParser):
    """Takes a page apart: its policy, what stands in style and script, attributes, and where each text stands."""

    def __init__(self, text):
        super().__init__()
        self.policy, self.inline, self.attributes, self.texts, self.open = "", {}, [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if found.get("http-equiv") == "Content-Security-Policy":
            assert not self.inline, "the policy stands before what it rules"
            self.policy = found["content"]
        if tag in ("style", "script"):
            assert not attrs
            self.inline.setdefault(tag, []).append("")
        if tag not in VOID:
            self.open.append((tag, found))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open and self.open[-1][0] in ("style", "script"):
            self.inline[self.open[-1][0]][-1] += data
        else:
            self.texts.append((data, list(self.open)))


def trajectory(evil=""):
    image = Image(np.zeros((8, 9, 3), np.uint8), "image_1" + evil)
    answers, problems = ("42" + evil,), ("dark" + evil,)
    task = Task("t1", "coding" + evil, "what?" + evil, (image,), answers, problems, "hard" + evil, "c" + evil)
    seen = Observation("out" + evil, (image,), ToolStatus.ERROR, 0.5)
    turns = (
        Turn(f"a{evil}<think>b{evil}</think>c{evil}", ToolCall("python" + evil, {}), 4, 8, seen),
        turn_of("junk" + evil, 8, 10),
    )
    return Trajectory(
        task, 0, np.zeros(10, np.int32), np.zeros(10, np.float32), np.ones(10, bool), np.zeros(10, bool),
        np.zeros((3, 10), np.int32), 4, (), turns, Status.ANSWERED, {"total": 2.0, "accuracy" + evil: 1.0},
    )  # fmt: skip


PAGES = {
    "trajectories": lambda: trajectories.trajectories_page(
        "run" + EVIL, [trajectory(EVIL), trajectory()], [trajectory(EVIL)], "table" + EVIL
    ),
    "the report": lambda: plots.report_page("run" + EVIL, RESULTS, b"png", {"fact" + EVIL: EVIL}, "t" + EVIL),
    "a bare frame": lambda: page.frame(EVIL, page.text(EVIL)),
}


def directives(policy):
    return {name: sources.split() for name, _, sources in (part.strip().partition(" ") for part in policy.split(";"))}


def hash_of(content):
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


@pytest.mark.parametrize("name", PAGES)
def test_the_policy_lets_in_the_pages_own_style_and_script_by_hash_and_no_other(name):
    read = Reader(PAGES[name]())
    rules = directives(read.policy)
    [style], scripts = read.inline["style"], read.inline.get("script", [])
    assert rules["style-src"] == [hash_of(style)]
    assert rules["script-src"] == ([hash_of(script) for script in scripts] or ["'none'"])
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == ["'none'"]
    assert rules["img-src"] == ["data:"] and set(rules) == {
        "default-src", "img-src", "style-src", "script-src", "base-uri", "form-action"
    }  # fmt: skip
    assert "unsafe" not in read.policy
    assert len(scripts) == (name == "trajectories")


@pytest.mark.parametrize("name", PAGES)
def test_no_element_has_a_style_or_a_handler_of_its_own(name):
    read = Reader(PAGES[name]())
    assert not [found for found in read.attributes if found[1] == "style" or found[1].startswith("on")]


@pytest.mark.parametrize("name", PAGES)
def test_every_text_from_outside_is_isolated_and_its_marks_can_be_seen(name):
    text = PAGES[name]()
    assert not {chr(code) for code in HIDDEN} & set(text)
    found = [(data, places) for data, places in Reader(text).texts if MARK in data]
    assert len(found) >= {"trajectories": 20, "the report": 5, "a bare frame": 2}[name]
    for data, places in found:
        tag, attributes = places[-1]
        if tag in PLAIN_TEXT:
            continue
        assert (tag, attributes.get("dir")) in (("bdi", "auto"), ("option", "auto")), (tag, data[:20])
        assert "[U+202E]" in data and "[U+200F]" in data and "\N{SYMBOL FOR SUBSTITUTE}" in data
    assert "bdi, option { unicode-bidi: isolate; }" in page.STYLE


def test_text_of_every_script_is_shown_as_it_is():
    assert page.text("שלום 北京 👩\u200d🔬 a\tb\nc") == '<bdi dir="auto">שלום 北京 👩\u200d🔬 a\tb\nc</bdi>'
