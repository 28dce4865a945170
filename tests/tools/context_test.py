"""What the tools of one trajectory share: images by name, seconds spent, a state for each tool."""

import pytest

from arft_jax.testing import tiny_rollout as tiny
from arft_jax.tools.bank import Refused
from arft_jax.tools.context import ToolContext
from arft_jax.trajectory import Observation


class State:
    def __init__(self):
        self.n_closed = 0

    def close(self):
        self.n_closed += 1


def test_images_come_in_under_the_next_names_and_the_newest_is_known():
    task = tiny.tiny_task(1, sizes=[(28, 28), (28, 56)])
    context = ToolContext(task)
    assert context.newest.pixels is task.images[1].pixels and context.newest.name == "image_2"
    seen = context.admit(Observation("a", (tiny.tiny_image(7), tiny.tiny_image(8)), seconds=0.5))
    assert [image.name for image in seen.images] == ["image_3", "image_4"] and context.newest is seen.images[1]
    assert ToolContext(tiny.tiny_task(1, sizes=[])).newest is None


def test_seconds_of_all_calls_are_summed():
    context = ToolContext(tiny.tiny_task(1))
    for seconds in (0.5, 0.0, 2.25):
        context.admit(Observation("", seconds=seconds))
    assert context.spent_s == 2.75


def test_each_tool_keeps_one_state_that_is_closed_once():
    context, made = ToolContext(tiny.tiny_task(1)), []

    def make():
        made.append(State())
        return made[-1]

    a, b = context.keep("a", make), context.keep("b", make)
    assert context.keep("a", make) is a and context.keep("b", make) is b and made == [a, b]
    assert context.keep("c", list) == []  # without a close
    context.close()
    context.close()
    assert (a.n_closed, b.n_closed) == (1, 1)


def test_a_state_that_fails_to_close_leaves_the_others_theirs(caplog):
    class Broken:
        def close(self):
            raise OSError("disk gone")

    context = ToolContext(tiny.tiny_task(1))
    context.keep("broken", Broken)
    good = context.keep("good", State)
    context.close()
    assert good.n_closed == 1


def test_the_name_of_an_image_that_there_is_not_is_refused_with_those_that_there_are():
    with pytest.raises(Refused, match="Images: image_1"):
        ToolContext(tiny.tiny_task(1)).images.get("image_2")
