"""Tools of one's own: what they may return, know and keep, how they fail, and which are refused."""

import functools
import subprocess
import sys
import textwrap
import threading
import time
from typing import Literal

import numpy as np
import PIL.Image
import pytest

from arft_jax.config import default_config
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.protocol import Answer, ToolCall
from arft_jax.syntax.tags import TagSyntax
from arft_jax.testing import tiny_rollout as tiny
from arft_jax.testing.toolboxes import context_of
from arft_jax.tools import guest
from arft_jax.tools.call import Fault
from arft_jax.tools.guest import make_tool, tool_options
from arft_jax.tools.offer import Offer
from arft_jax.tools.record import Tool, ToolHost
from arft_jax.tools.toolbox import open_tools
from arft_jax.trajectory import Image, Observation, ToolStatus

HOST = ToolHost(default_config().tools.to_dict() | {"n_tries": 2})


def opened(*guests):
    """The toolbox of these guests."""
    tools = [make_tool(each, "here:it") for each in guests]
    offer = Offer({tool.name: tool for tool in tools}, (), TagSyntax([tool.spec for tool in tools]))
    return open_tools(offer, HOST)


def call(box, tool, context=None, **arguments):
    context = context or context_of(tiny.tiny_task(1), (tiny.tiny_image(1),))
    return box.submit(ToolCall(tool, arguments), context).result(20)


# ------------------------------------------------------------------ what the policy is told


def zoom(factor: float, image: str = "", mode: Literal["near", "smooth"] = "near", context=None):
    """Enlarges the middle of a picture.

    Args:
      factor: how much.
      image: which picture; the newest where it is left out.
      mode: how pixels are made.
    """
    picture = context.image(image)
    return f"by {factor:g}", picture.resize((int(picture.width * factor), int(picture.height * factor)))


def test_a_functions_schema_is_what_its_types_and_docstring_tell():
    spec = make_tool(zoom, "here:zoom").spec
    assert (spec.name, spec.tag, spec.kinds, spec.tells) == ("zoom", "zoom", None, True)
    assert spec.description == "Enlarges the middle of a picture."
    parts = spec.parameters["properties"]
    assert list(parts) == ["factor", "image", "mode"] and spec.parameters["required"] == ["factor"]
    assert parts["factor"] == {"type": "number", "description": "how much."}
    assert parts["mode"]["enum"] == ["near", "smooth"]
    assert spec.prompt_line.startswith("<zoom>...</zoom> holds a JSON object of its arguments. Enlarges the middle")


def test_the_authors_options_go_before_what_the_function_says():
    @tool_options(name="look", tag="see", line="See.", kinds=("coding",), n_threads=2, timeout_s=3.0)
    def anything() -> str:
        """Looks."""

    tool = make_tool(anything, "here:anything")
    spec, policy = tool.spec, tool.call_policy(HOST)
    assert (spec.name, spec.tag, spec.prompt_line, spec.kinds) == ("look", "see", "See.", ("coding",))
    assert (policy.n_threads, policy.n_tries, tool.is_guest) == (2, 2, True)
    assert make_tool(Counter, "here:Counter").name == "counter"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(colour=1), "tool_options takes kinds, line, n_threads, name, tag, timeout, timeout_s: got colour"),
        (dict(timeout="later"), "timeout must be limit or infra: got 'later'"),
        (dict(timeout_s=0.0), "timeout_s must be above 0 and n_threads at least 1: got 0.0 and 4"),
        (dict(n_threads=0), "got 30.0 and 0"),
    ],
)
def test_options_that_there_are_not_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        tool_options(**options)


# ------------------------------------------------------------------ what comes back

GREEN = np.full((6, 4, 3), (0, 200, 0), np.uint8)
RETURNED = {
    "a text": ("seen", "seen", 0),
    "an int": (7, "7", 0),
    "a float": (0.5, "0.5", 0),
    "a bool": (False, "False", 0),
    "a number of numpy": (np.int64(7), "7", 0),
    "an array": (GREEN, "", 1),
    "a PIL image": (PIL.Image.fromarray(GREEN), "", 1),
    "a grey PIL image": (PIL.Image.new("L", (4, 6), 9), "", 1),
    "an image of the package": (Image(GREEN), "", 1),
    "both": (("two", GREEN, PIL.Image.fromarray(GREEN)), "two", 2),
    "texts": (["a", 1, None, "b"], "a\n1\nb", 0),
    "a control character": ("a\x1b[31mb", "ab", 0),
}


@pytest.mark.parametrize("case", RETURNED)
def test_texts_numbers_and_images_are_shown(case):
    value, text, n_images = RETURNED[case]

    def give():
        """Gives."""
        return value

    with opened(give) as box:
        seen = call(box, "give")
    assert (seen.status, seen.text, len(seen.images)) == (ToolStatus.OK, text, n_images)
    assert all(image.pixels.dtype == np.uint8 and image.size == (6, 4) for image in seen.images)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (None, "The tool returned no text and no image."),
        ((), "The tool returned no text and no image."),
        ({"a": 1}, "cannot be shown: an image must be a PIL image or uint8[height, width, 3], got dict"),
        (GREEN.astype(np.float32), "got float32[6, 4, 3]"),
        (GREEN[:, :, 0], "got uint8[6, 4]"),
        (b"bytes", "got bytes"),
        (np.zeros((0, 4, 3), np.uint8), "cannot be shown: "),
    ],
    ids=str,
)
def test_what_cannot_be_shown_is_an_error_that_says_so(value, sentence):
    def give():
        """Gives."""
        return value

    with opened(give) as box:
        seen = call(box, "give")
    assert seen.status is ToolStatus.ERROR and sentence in seen.text and not seen.images


def test_long_texts_are_cut():
    def give():
        """Gives."""
        return "a" * 10_000

    with opened(give) as box:
        assert len(call(box, "give").text) <= HOST.settings["max_output_bytes"]


def test_a_tool_sees_the_task_and_the_images_of_its_trajectory_by_name():
    def look(name: str, context):
        """Looks.

        Args:
          name: of a picture.
        """
        picture = context.image(name)
        picture.putpixel((0, 0), (1, 2, 3))  # a copy: nobody else sees it
        return f"{context.task.question} {list(context.images)} {context.image().size} {picture.size}"

    first, second = tiny.tiny_image(1, 28, 56), tiny.tiny_image(2, 84, 28)
    context = context_of(tiny.tiny_task(3), (first, second))
    with opened(look) as box:
        seen = call(box, "look", context, name="image_1")
        assert seen.text == "question 3? ['image_1', 'image_2'] (28, 84) (56, 28)"
        missing = call(box, "look", context, name="image_9")
    assert (missing.status, missing.text) == (
        ToolStatus.ERROR, "ValueError: There is no image of that name. Images: image_1, image_2."
    )  # fmt: skip
    np.testing.assert_array_equal(context.images.get("image_1").pixels, first.pixels)
    with opened(zoom) as box:
        seen = context.admit(call(box, "zoom", context, factor=2, image="image_1"))
    assert seen.text == "by 2" and seen.images[0].size == (56, 112) and seen.images[0].name == "image_3"


def test_wrong_arguments_are_told_before_the_function_is_called():
    def double(n: int):
        """Doubles.

        Args:
          n: a number.
        """
        raise AssertionError("called")

    with opened(double) as box:
        for arguments, sentence in (
            (dict(n="2"), "must be integer"),
            ({}, "'n' is missing"),
            (dict(n=1, m=2), "no arg"),
        ):
            seen = call(box, "double", **arguments)
            assert seen.status is ToolStatus.ERROR and sentence in seen.text


# ------------------------------------------------------------------ state


class Counter:
    """Counts its calls."""

    made, closed = [], []

    def reset(self, context):
        self.n, self.question = 0, context.task.question
        self.made.append(self)

    def __call__(self, by: int = 1) -> str:
        """Adds.

        Args:
          by: how much.
        """
        self.n += by
        return f"{self.question} {self.n}"

    def close(self):
        self.closed.append(self)


def test_a_class_keeps_its_state_for_one_trajectory_and_is_closed_at_its_end():
    Counter.made.clear(), Counter.closed.clear()
    contexts = [context_of(tiny.tiny_task(i), ()) for i in range(3)]
    with opened(Counter) as box:
        texts = [call(box, "counter", context, by=by).text for by in (1, 2) for context in contexts[:2]]
    assert texts == ["question 0? 1", "question 1? 1", "question 0? 3", "question 1? 3"]
    assert len(Counter.made) == 2 and not Counter.closed
    for context in contexts:  # the third never called it
        context.close()
        context.close()
    assert Counter.closed == Counter.made


def test_a_scripted_trajectory_closes_what_its_tools_kept():
    Counter.made.clear(), Counter.closed.clear()
    tool = make_tool(Counter, "here:Counter")
    syntax = TagSyntax([tool.spec])
    sizes = dict(n_slots=2, group_size=2, max_turns=3, max_turn_tokens=96, max_tokens=256)
    stage = tiny.Stage(Tokenizer.tiny(), syntax=syntax, **sizes)
    turns = [syntax.write(ToolCall("counter", {"by": 2})), syntax.write(Answer("7"))]
    with open_tools(Offer({"counter": tool}, (), syntax), HOST) as box:
        [[one, two]] = stage.play([(tiny.tiny_task(1), [turns[0], turns[0], turns[1]])], box, n_rows=2)
    for t in (one, two):
        assert [turn.observation.text for turn in t.turns[:2]] == ["question 1? 2", "question 1? 4"]
    assert len(Counter.made) == len(Counter.closed) == 2


def test_what_fails_or_hangs_at_its_end_holds_nobody_up(monkeypatch):
    monkeypatch.setattr(guest, "_CLOSE_S", 0.1)
    release = threading.Event()

    class Stuck:
        """Gets stuck."""

        def __call__(self) -> str:
            """Says."""
            return "said"

        def close(self):
            release.wait(20)
            raise RuntimeError("late")

    context, begin = context_of(tiny.tiny_task(1), ()), time.monotonic()
    with opened(Stuck) as box:
        assert call(box, "stuck", context).text == "said"
    context.close()
    assert time.monotonic() - begin < 5
    release.set()


# ------------------------------------------------------------------ failures


def test_an_exception_is_an_error_that_the_policy_reads_and_no_sign_of_a_failing_back_end():
    def divide(n: int):
        """Divides.

        Args:
          n: by what.
        """
        return 1 / n

    with opened(divide) as box:
        for _ in range(20):
            seen = call(box, "divide", n=0)
            assert (seen.status, seen.text) == (ToolStatus.ERROR, "ZeroDivisionError: division by zero")
        assert call(box, "divide", n=1).text == "1.0"
        assert box.metrics()["tool/divide/error"] == 20 and box.metrics()["tool/divide/breaker"] == 0


def test_even_an_exit_is_the_tools_own():
    def leave():
        """Leaves."""
        sys.exit(3)

    with opened(leave) as box:
        seen = call(box, "leave")
    assert (seen.status, seen.text) == (ToolStatus.ERROR, "SystemExit: 3")


def test_a_service_that_fails_is_tried_again_and_then_an_infrastructure_failure():
    calls = []

    def ask(fails: int):
        """Asks.

        Args:
          fails: how often.
        """
        calls.append(fails)
        if len(calls) <= fails:
            raise Fault("no reply")
        return "a reply"

    with opened(ask) as box:
        assert call(box, "ask", fails=1).text == "a reply" and len(calls) == 2
        calls.clear()
        seen = call(box, "ask", fails=9)
        assert (seen.status, seen.text) == (ToolStatus.INFRA, "tool fault: no reply") and len(calls) == 2  # n_tries


@pytest.mark.parametrize(("timeout", "status"), [("limit", ToolStatus.LIMIT), ("infra", ToolStatus.INFRA)])
def test_a_call_past_its_time_is_the_policys_or_ours_as_the_options_say(timeout, status):
    release = threading.Event()

    @tool_options(timeout_s=0.1, timeout=timeout)
    def sleep():
        """Sleeps."""
        release.wait(20)

    begin = time.monotonic()
    with opened(sleep) as box:
        seen = call(box, "sleep")
        assert seen.status is status and "longer than 0.1 s" in seen.text
    assert time.monotonic() - begin < 5  # the hung call holds up neither the reply nor the close
    release.set()


def test_where_too_many_calls_hang_no_other_is_started():
    release = threading.Event()

    @tool_options(timeout_s=0.01, n_threads=4)
    def sleep():
        """Sleeps."""
        release.wait(20)

    with opened(sleep) as box:
        context = context_of(tiny.tiny_task(1), ())
        statuses = [call(box, "sleep", context).status for _ in range(22)]
    assert statuses == [ToolStatus.LIMIT] * 20 + [ToolStatus.INFRA] * 2  # 4 threads and 16 left behind
    release.set()


def test_close_gives_up_what_runs():
    release = threading.Event()

    def sleep():
        """Sleeps."""
        release.wait(20)

    with opened(sleep) as box:
        future = box.submit(ToolCall("sleep", {}), context_of(tiny.tiny_task(1), ()))
        time.sleep(0.1)
        begin = time.monotonic()
    assert time.monotonic() - begin < 5 and future.result(1).status is ToolStatus.INFRA
    release.set()


def test_a_hung_call_does_not_hold_up_the_end_of_the_process():
    script = """
        import threading
        from arft_jax.tools.call import Call
        from arft_jax.tools.guest_calls import GuestRunner

        runner = GuestRunner("sleep", 0.1, False, 1, 100)
        seen = runner.work(lambda: threading.Event().wait(600), {})(Call(10.0))
        print(seen.status, flush=True)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60,
        env={"PYTHONPATH": ":".join(sys.path), "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "limit\n"), done.stderr


# ------------------------------------------------------------------ refused


def undescribed(n: int):
    """Does."""


def untyped(n):
    """Does.

    Args:
      n: a number.
    """


def silent(n: int):
    pass


def starred(*names: str):
    """Does.

    Args:
      names: some.
    """


def keyworded(**more: int):
    """Does.

    Args:
      more: some.
    """


def nothing() -> None:
    """Does."""


def mapping() -> dict[str, int]:
    """Does."""


class NotCallable:
    """Cannot be called."""


class TwoWords(Counter):
    """Counts too."""

    def __call__(self) -> str:
        """Says."""


class Silent:
    def __call__(self):
        pass


BAD = {
    "no docstring": (silent, "must have a docstring, the policy reads it: got none"),
    "a class without docstring": (Silent, "must have a docstring"),
    "an untyped argument": (untyped, "must have a type for every argument: 'n' has none"),
    "an undescribed argument": (undescribed, "docstring and types must tell its schema: .*n"),
    "any number of arguments": (starred, r"must name its arguments: got \*names"),
    "arguments by any name": (keyworded, r"must name its arguments: got \*more"),
    "nothing returned": (nothing, "must return text, an image, or both: got the return type NoneType"),
    "a mapping returned": (mapping, "must return text, an image, or both: got the return type dict"),
    "no function": (7, "must be a function, a class with __call__, or a Tool: got int"),
    "a class that is no tool": (NotCallable, "must be a function, a class with __call__, or a Tool: got type"),
    "a lambda": (lambda: 1, "name must be a plain lower-case word: got '<lambda>'"),
    "no name": (functools.partial(zoom), "name must be a plain lower-case word: got ''"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_tool_is_one_sentence_with_the_key(case):
    bad, sentence = BAD[case]
    with pytest.raises(ValueError, match=rf"^[^\n]*{sentence}[^\n]* at here:it \(config.tools.extra\)$"):
        make_tool(bad, "here:it")


def test_a_name_in_other_letters_becomes_a_plain_one_or_is_refused():
    assert make_tool(Counter, "x:y").name == "counter" and make_tool(TwoWords, "x:y").name == "two_words"
    with pytest.raises(ValueError, match="plain lower-case word: got 'Zoom In'"):

        @functools.partial(make_tool, path="x:y")
        @tool_options(name="Zoom In")
        def zoom_in() -> str:
            """Zooms."""


def test_a_record_of_ones_own_is_taken_as_it_is():
    record = make_tool(zoom, "here:zoom")
    own = make_tool(Tool(record.spec, record.open), "here:RECORD")
    assert own.is_guest and own.spec is record.spec


def test_types_that_are_texts_are_read():
    scope = {}
    exec(
        "from __future__ import annotations\ndef f(n: int) -> None:\n    '''D.\n\n    Args:\n      n: a.\n    '''",
        scope,
    )
    with pytest.raises(ValueError, match="got the return type NoneType"):
        make_tool(scope["f"], "x:y")
    scope["f"].__annotations__["return"] = "str | Observation"
    scope["Observation"] = Observation
    assert make_tool(scope["f"], "x:y").spec.parameters["properties"]["n"]["type"] == "integer"
