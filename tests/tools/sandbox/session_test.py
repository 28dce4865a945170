"""A session's code finds what its earlier code left, as if one process had lived on; and is told where it does not."""

import numpy as np
import pytest

from arft_jax.config import default_config
from arft_jax.testing.toolboxes import code_call, make_toolbox, open_configured
from arft_jax.tools.context import ToolContext
from arft_jax.tools.sandbox import CodeSession, PythonSandbox, broker, session, verdict
from arft_jax.trajectory import Image, Task, ToolStatus


def grey(value):
    return Image(np.full((8, 8, 3), value, np.uint8))


ONE = {"image_1": grey(10)}
TWO = ONE | {"image_2": grey(200)}
LIMIT_S = 4.0


@pytest.fixture(scope="module", params=["auto", "L0"])
def sandbox(request):
    with PythonSandbox(n_workers=1, timeout_s=LIMIT_S, memory_mb=256, max_image_px=10_000, level=request.param) as box:
        yield box


@pytest.fixture
def run(sandbox):
    """Runs code in one session: (status, text)."""
    kept = CodeSession()

    def call(source, images=ONE):
        seen = kept.run(sandbox, source, images)
        return str(seen.status), seen.text

    return call


def test_variables_functions_and_files_live_on_and_nothing_is_heard_or_shown_twice(sandbox):
    kept = CodeSession()
    first = kept.run(
        sandbox,
        "import sys, random\nx = [1]\ndef f(): return x + [2]\nprint('heard')\nprint('too', file=sys.stderr)\n"
        "open('notes', 'w').write('n')\nshow(image_1)\nimage_1.save('path_to_output_image.jpg')\ny = random.random()",
        ONE,
    )
    assert (first.text, len(first.images)) == ("heard\ntoo", 2)
    second = kept.run(sandbox, "x.append(9)\nprint(f(), open('notes').read(), y)", ONE)
    report = sandbox.report("import random\nprint(random.random())", ONE, [])
    assert second.text.startswith("[1, 9, 2] n 0.") and second.images == () and report.was_replayed
    third = kept.run(sandbox, "show(image_1)\nprint(f(), y)", ONE)
    assert third.text == second.text.replace(" n ", " ") and len(third.images) == 1


def test_an_image_alone_has_no_session(sandbox):
    with pytest.raises(ValueError, match="a session's images must have names"):
        CodeSession().run(sandbox, "print(1)", grey(1))
    kept = CodeSession()
    kept.run(sandbox, "print(1)", TWO)
    with pytest.raises(ValueError, match="must not become fewer: got 1 after 2"):
        kept.run(sandbox, "print(1)", ONE)


def test_code_that_fails_is_not_kept_and_costs_no_variables(run):
    assert run("x = 1") == ("error", verdict.NO_OUTPUT)  # it ran to its end all the same
    assert run("x = 2\n1 / 0")[0] == "error"
    assert run("print(x)") == ("ok", "1")


def test_an_exit_in_kept_code_is_not_the_end_of_later_code(run):
    assert run("x = 5\nprint('first')\nimport sys\nsys.exit()") == ("ok", "first")
    assert run("print(1 / 0)") == ("error", "ZeroDivisionError: division by zero (line 1)")
    assert run("print(x)") == ("ok", "5")


# Standard output is the null device when a cell runs again, which has a device number.
AGAIN = "import os, sys\nprint('first')\nif os.fstat(1).st_rdev: "


@pytest.mark.parametrize(
    "source",
    [
        "import os\nprint('first', flush=True)\nos._exit(0)",
        "import os\nprint('first')\nos.remove('image_1.png')",
        AGAIN + "raise ValueError",
        AGAIN + "os.abort()",
        AGAIN + "x = bytearray(1 << 30)",
        AGAIN + "os.closerange(0, 64)",
    ],
)
def test_kept_code_that_does_not_run_again_is_given_up_once_and_said(run, source):
    assert run(source) == ("ok", "first")
    assert run("print(2)") == ("ok", f"{session.GONE}\n2")
    assert run("x = 3\nprint(x)") == ("ok", "3")
    assert run("print(x + 1)") == ("ok", "4")


def test_each_cell_has_the_images_of_its_time(run):
    look = (
        "import cv2, glob\nseen = {}, cv2.imread('path_to_input_image.jpg')[0, 0, 0].item(), sorted(glob.glob('*.png'))"
    )
    assert run(look.format("len(images)") + "\nfirst = seen\nnewest = 'image_2' in globals()\nprint(seen)") == (
        "ok",
        "(1, 10, ['image_1.png'])",
    )
    both = "(2, 200, ['image_1.png', 'image_2.png'])"
    assert run(look.format("len(images)") + "\nprint(first, seen, newest)", TWO) == (
        "ok",
        f"(1, 10, ['image_1.png']) {both} False",
    )
    three = TWO | {"image_3": grey(77)}
    text = "print(first, seen, newest, list(images), image_3.getpixel((0, 0))[0])"
    assert run(text, three)[1] == f"(1, 10, ['image_1.png']) {both} False ['image_1', 'image_2', 'image_3'] 77"


def test_what_kept_code_did_to_its_surroundings_does_not_reach_later_code(run):
    assert run(
        "import io, os, sys\nprint('a', flush=True)\nos.mkdir('sub')\nos.chdir('sub')\nsys.stdout = io.StringIO()"
    ) == ("ok", "a")
    assert run("open('path_to_input_image.jpg', 'wb').write(b'x')\nprint('b')") == ("ok", "b")
    assert run(
        "import os\nfrom PIL import Image\nprint(os.path.isdir('sub'), Image.open('path_to_input_image.jpg').size)"
    )[1] == ("True (8, 8)")


def test_a_limit_ends_the_state_and_the_next_code_starts_afresh(run):
    assert run("x = bytearray(100 << 20)\nprint(1)") == ("ok", "1")
    status, text = run("y = bytearray(200 << 20)\nprint(1)")
    assert (status, text) == ("limit", f"Memory limit of 256 MB reached.\n{session.GONE}")
    assert run("print('x' in globals())\ny = bytearray(200 << 20)") == ("ok", "False")


def test_code_that_would_take_too_long_again_is_forgotten_at_once(run):
    assert run(f"import time\ntime.sleep({0.6 * LIMIT_S})\nx = 1\nprint('slow')") == ("ok", f"slow\n{session.FULL}")
    assert run("print('x' in globals())") == ("ok", "False")


def test_a_session_is_bounded_in_cells_and_in_text_and_never_dead(sandbox):
    kept = CodeSession(max_cells=2)
    texts = [
        kept.run(sandbox, f"x{n} = 1\nprint(len([k for k in globals() if k[0] == 'x']))", ONE).text for n in range(5)
    ]
    assert texts == ["1", "2", f"3\n{session.FULL}", "1", "2"]
    kept, long = CodeSession(), "#" * (broker.MAX_SOURCE_CHARS // 2)
    assert kept.run(sandbox, f"x = 1\nprint(1){long}", ONE).text == "1"
    assert kept.run(sandbox, f"print(x){long}", ONE).text == f"1\n{session.FULL}"
    assert kept.run(sandbox, f"print('x' in globals()){long}", ONE).text == "False"
    assert kept.run(sandbox, 3 * long, ONE).text == verdict.LONG_SOURCE
    assert kept.run(sandbox, "print(2)", ONE).text == "2"


def test_a_cell_run_again_by_a_retry_or_a_late_probe_is_kept_once(sandbox):
    kept = CodeSession()
    again = kept.begin(sandbox, "x = globals().get('x', 0) + 1\nprint(x)", ONE)
    assert [again(None).text for _ in range(2)] == ["1", "1"]
    assert kept.run(sandbox, "print(x)\nx = 7", ONE).text == "1"
    assert again(None).text == "1"
    assert kept.run(sandbox, "print(x)", ONE).text == "7"


class Conversations:
    """One trajectory, over several toolboxes."""

    def __init__(self, task):
        self.context = ToolContext(task)

    def call(self, box, source):
        return self.context.admit(box.submit(code_call(source), self.context).result(30))


def test_a_toolbox_keeps_state_within_a_trajectory_and_not_between_them(sandbox):
    task, source = Task("t", "coding", "?", (grey(10),), ("a",)), "print(x)"
    mine, other = Conversations(task), Conversations(task)

    with make_toolbox(sandbox, None, sessions=True) as box:
        assert mine.call(box, "x = 4\nshow(image_1.point(lambda v: 99))").images[0].name == "image_2"
        assert mine.call(box, "print(x, image_2.getpixel((0, 0))[0])").text == "4 99"
        assert other.call(box, source).text == "NameError: name 'x' is not defined (line 1)"
        assert Conversations(task).call(box, source).status == ToolStatus.ERROR
        assert mine.call(box, source).text == "4"
    with make_toolbox(sandbox, None) as box:
        assert mine.call(box, source).status == ToolStatus.ERROR  # sessions are off


@pytest.mark.parametrize("is_on", [False, True])
def test_the_config_switches_sessions_on(is_on):
    config = default_config()
    assert config.tools.sandbox.sessions is False
    config.tools.n_workers, config.tools.sandbox.sessions = 1, is_on
    mine = Conversations(Task("t", "coding", "?", (grey(10),), ("a",)))
    with open_configured(config, ["coding"]) as box:
        for source in ("x = 1\nprint(2)", "print(x)"):
            seen = mine.call(box, source)
    assert seen.status == (ToolStatus.OK if is_on else ToolStatus.ERROR)


def test_a_cells_timer_ends_with_the_cell(run):
    timer = "import signal\nsignal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)\nx = 3"
    assert run(timer) == ("error", verdict.NO_OUTPUT)
    assert run("import time\ntime.sleep(0.6)\nprint(x)") == ("ok", "3")
