"""The trajectory page is self-contained, escaped and complete."""

import dataclasses
import html.parser
import re

import numpy as np

from arft_jax.report import page, trajectories
from arft_jax.testing.toolboxes import turn_of
from arft_jax.trajectory import Image, Observation, Status, Task, ToolCall, ToolStatus, Trajectory, Turn

EVIL = "<script>alert('x')</script><img src=//evil.example/a.png onerror=\"x\"> & \x00\x1b[31m"


class Reader(html.parser.HTMLParser):
    """Counts tags, collects addresses and text, checks that tags are closed."""

    def __init__(self):
        super().__init__()
        self.tags, self.addresses, self.open, self.words = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "action")]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in ("img", "meta", "br", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def read(text):
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


def make(id_="t1", text="<think>dim</think><answer>42</answer>", evil="", rewards=None, small=True):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3) if small else (900, 1200, 3), np.uint8)
    image = Image(pixels, "image_1" + evil)
    task = Task(id_ + evil, "coding" + evil, "what?" + evil, (image,), ("42" + evil,), ("dark" + evil,), "hard" + evil)
    call = Turn(
        "<think>fix</think><code>```python\nx\n```</code>" + evil,
        ToolCall("python" + evil, {"code": "x"}),
        4,
        8,
        Observation("out" + evil, (image,), ToolStatus.ERROR, 0.5),
    )
    last = dataclasses.replace(turn_of(text, 8, 10), text=text + evil)
    return Trajectory(
        task, 0, np.zeros(10, np.int32), np.zeros(10, np.float32), np.ones(10, bool), np.zeros(10, bool),
        np.zeros((3, 10), np.int32), 4, (), (call, last), Status.ANSWERED,
        {"total": 2.0, "accuracy": 1.0} if rewards is None else rewards,
    )  # fmt: skip


def test_nothing_of_the_policys_text_becomes_markup():
    plain, evil = (
        read(trajectories.trajectories_page("run" + e, [make(evil=e)], [make(evil=e)], "summary" + e))
        for e in ("", EVIL)
    )
    assert plain.tags == evil.tags  # the same page but for its words
    assert "".join(evil.words).count("alert('x')") >= 12
    raw = trajectories.trajectories_page("run", [make(evil=EVIL)])
    assert "\x00" not in raw and "\x1b" not in raw


def test_the_page_reaches_nothing_outside_itself():
    text = trajectories.trajectories_page("run", [make(evil=EVIL)])
    assert all(address.startswith("data:image/png;base64,") for address in read(text).addresses)
    assert "default-src 'none'" in text


def test_a_trajectory_is_shown_whole():
    words = " ".join(" ".join(read(trajectories.trajectories_page("tiny", [make()])).words).split())
    for wanted in (
        "tiny",
        "what?",
        "42",
        "dark",
        "hard",
        "dim",
        "fix",
        "python",
        "error",
        "0.50 s",
        "out",
        "total 2.000",
    ):
        assert wanted in words, wanted
    assert "1 of 1 scored ones correct" in words


def test_before_stands_beside_after_for_the_same_task():
    text = trajectories.trajectories_page("r", [make("a"), make("b")], before=[make("b", rewards={"accuracy": 0.0})])
    first, second = re.findall(r"<article.*?</article>", text, re.DOTALL)
    assert "<h3>before</h3>" not in first and "<h3>trajectory</h3>" in first
    assert "<h3>before</h3>" in second and "<h3>after</h3>" in second
    assert second.index("(wrong)") < second.index("(correct)")


def test_malformed_and_unscored_are_said_to_be_so():
    trajectory = dataclasses.replace(make(text="junk", rewards={}), status=Status.MALFORMED)
    words = " ".join(read(trajectories.trajectories_page("r", [trajectory])).words)
    assert "no action tag" in words and "(unscored)" in words and "not scored" in words


def test_small_images_grow_and_large_ones_shrink():
    # 20 x 30: 200 // 30 = 6 times, 180 px wide. 900 x 1200: 640 px wide, caption with the true size.
    assert 'width="180"' in page.figure(make().task.images[0])
    large = page.figure(make(small=False).task.images[0])
    assert 'width="640"' in large and "1200 × 900 px" in large and "class=small" not in large


def test_a_lone_surrogate_can_be_written(tmp_path):
    trajectories.write_trajectories(tmp_path / "t.html", "r", [make(text="\ud83d <answer>é中</answer>")])
    assert "é中" in (tmp_path / "t.html").read_text(encoding="utf-8")


def test_filters_are_of_what_differs_alone():
    one, other = make("a"), make("b", rewards={"accuracy": 0.0})
    assert "<select" not in trajectories.trajectories_page("r", [one])
    text = trajectories.trajectories_page("r", [one, other])
    assert re.findall(r'<select name="(\w+)"', text) == ["verdict"]


def test_without_a_true_answer_there_is_no_verdict_and_no_empty_line():
    asked = make(rewards={})
    asked = dataclasses.replace(asked, task=dataclasses.replace(asked.task, answers=()))
    words = " ".join(read(trajectories.trajectories_page("r", [asked])).words)
    for word in ("true answer", "unscored", "rewards", "hard"):
        assert word not in words
    assert "answer: 42" in re.sub(r"\s+", " ", words)
