"""The sandbox as its callers see it: real code, in real processes."""

import concurrent.futures
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from arft_jax.tools import clean
from arft_jax.tools.sandbox import PythonSandbox, scratch, verdict
from arft_jax.trajectory import Image, ToolStatus

ROTATE = (
    "import cv2\n"
    "image = cv2.imread('path_to_input_image.jpg')\n"
    "cv2.imwrite('path_to_output_image.jpg', cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE))\n"
)
# PNG under the output's name: lossless, so pixels can be compared.
SAVE = "image.save('path_to_output_image.jpg', 'PNG')\n"
INVERT = "from PIL import Image, ImageOps\nimage = ImageOps.invert(Image.open('path_to_input_image.jpg'))\n" + SAVE


def make_image(seed=0, height=84, width=60):
    return Image(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def scratch_folders(pid=None):
    prefix = f"arft-sandbox-{pid or os.getpid()}-"
    return {name for name in os.listdir(scratch.choose_root()) if name.startswith(prefix)}


def descendants(pid=None):
    """Pids of all processes below one, by default this."""
    parents = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", "rb") as f:
                parents[int(name)] = int(f.read().rpartition(b")")[2].split()[1])
        except OSError:
            continue
    found, frontier = set(), {pid or os.getpid()}
    while frontier:
        frontier = {pid for pid, parent in parents.items() if parent in frontier} - found
        found |= frontier
    return found


def wait_until(condition, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@pytest.fixture(scope="module")
def sandbox():
    with PythonSandbox(n_workers=2, timeout_s=1.0, memory_mb=256, max_output_bytes=1000, max_image_px=10_000) as box:
        yield box


@pytest.fixture
def worker_at_work(image):
    """(sandbox, its worker, future of a call that runs in it)."""
    with PythonSandbox(n_workers=1, timeout_s=5.0) as box, concurrent.futures.ThreadPoolExecutor(1) as threads:
        (worker,) = box.workers
        future = threads.submit(box.run, "import time\ntime.sleep(0.4)\nprint('done')", image)
        time.sleep(0.15)
        yield box, worker, future


@pytest.fixture(scope="module")
def image():
    return make_image()


def test_opencv_code_turns_the_image(sandbox):
    pixels = np.zeros((84, 60, 3), np.uint8)
    pixels[:42, :, 0] = 250  # the upper half red
    result = sandbox.run(ROTATE, Image(pixels))
    assert (result.status, result.text) == (ToolStatus.OK, "")
    assert result.images[0].size == (60, 84)
    assert result.seconds > 0
    # JPEG is lossy at the edge; an image turned the other way would be off by 83 on average.
    assert np.abs(result.images[0].pixels.astype(int) - np.rot90(pixels, -1)).mean() < 3


def test_input_and_output_are_lossless(sandbox, image):
    result = sandbox.run(INVERT, image)
    np.testing.assert_array_equal(result.images[0].pixels, 255 - image.pixels)
    code = "import cv2\nfrom PIL import Image\nimage = Image.fromarray(cv2.imread('path_to_input_image.jpg'))\n" + SAVE
    np.testing.assert_array_equal(sandbox.run(code, image).images[0].pixels, image.pixels[:, :, ::-1])


def test_printed_text_alone_is_a_result(sandbox, image):
    result = sandbox.run("print('sum', 1 + 1)\nprint('\\x1b[31m\\u202ered')", image)
    assert (result.status, result.text, result.images) == (ToolStatus.OK, "sum 2\nred", ())


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("x = 1\ny = x / 0\n", "ZeroDivisionError: division by zero (line 2)"),
        ("def f():\n    return g\n\nf()\n", "NameError: name 'g' is not defined (line 2)"),
        ("x = (\n", "SyntaxError: '(' was never closed (line 1)"),
        ("print('partly')\nraise ValueError('a\\n b')\n", "ValueError: a b (line 2)"),
        ("import sys\nsys.exit(3)", "SystemExit: 3 (line 2)"),
        ("import os\nos._exit(9)", "The code ended with exit status 9."),
        ("import ctypes\nctypes.string_at(0)", "The code crashed (SIGSEGV)."),
        ("x = 1", verdict.NO_OUTPUT),
        ("a = '\0'", "SyntaxError: source code string cannot contain null bytes"),
        ("open('missing.png')", "FileNotFoundError: [Errno 2] No such file or directory: 'missing.png' (line 1)"),
    ],
)
def test_a_mistake_is_an_error_in_one_line(sandbox, image, source, text):
    result = sandbox.run(source, image)
    assert result.status == ToolStatus.ERROR
    assert result.text == text or (text.startswith("SyntaxError: source") and "null bytes" in result.text)
    assert result.images == ()


def test_a_long_exception_is_capped(sandbox, image):
    result = sandbox.run("raise ValueError('x' * 100_000)", image)
    assert result.status == ToolStatus.ERROR
    assert len(result.text) < 450 and result.text.endswith("(line 1)")


def test_too_long_code_is_an_error(sandbox, image):
    assert sandbox.run("#" * 300_000, image).text == verdict.LONG_SOURCE


@pytest.mark.parametrize("body", ["pass", "time.sleep(9)"])
def test_an_endless_loop_meets_the_time_limit(sandbox, image, body):
    ignore = "import signal, time\nfor n in (15, 2, 24): signal.signal(n, signal.SIG_IGN)\n"
    result = sandbox.run(f"{ignore}while True: {body}\n", image)
    assert (result.status, result.text) == (ToolStatus.LIMIT, "Time limit of 1 s reached.")
    assert 1.0 <= result.seconds < 4.0


@pytest.mark.parametrize(
    "source",
    [
        "x = bytearray(1 << 30)",
        "import numpy as np\nnp.ones((1 << 27,))",
        "x = []\nwhile True: x.append(bytearray(1 << 20))",
        "import cv2, numpy as np\ncv2.resize(np.zeros((9, 9, 3), np.uint8), (20000, 20000))",
    ],
)
def test_a_memory_hog_meets_the_memory_limit(sandbox, image, source):
    result = sandbox.run(source, image)
    assert (result.status, result.text) == (ToolStatus.LIMIT, "Memory limit of 256 MB reached.")


def test_a_long_print_is_cut_and_an_endless_one_ended(sandbox, image):
    result = sandbox.run("print('y' * 20_000)", image)
    assert (result.status, result.text) == (ToolStatus.OK, "y" * 1000 + clean.CUT)
    result = sandbox.run("while True: print('y' * 1000)", image)
    assert (result.status, result.text) == (ToolStatus.LIMIT, verdict.TOO_MUCH_PRINTED)


def test_huge_files_meet_a_limit(sandbox, image):
    result = sandbox.run("f = open('a', 'wb')\nwhile True: f.write(bytes(1 << 20))", image)
    assert (result.status, result.text) == (ToolStatus.LIMIT, verdict.TOO_MUCH_WRITTEN)
    many = "import time\nfor i in range(500): open(str(i), 'w').close()\ntime.sleep(5)"
    result = sandbox.run(many, image)
    assert (result.status, result.text) == (ToolStatus.LIMIT, verdict.TOO_MUCH_WRITTEN)


@pytest.mark.parametrize(
    "source",
    [
        "import os\nos.fork()",
        "import subprocess\nsubprocess.run(['sleep', '60'])",
        "import os\nos.execv('/bin/sleep', ['sleep', '60'])",
        "import ctypes\nif ctypes.CDLL(None, use_errno=True).fork() < 0: raise PermissionError(ctypes.get_errno())",
    ],
)
def test_fork_and_exec_are_refused(sandbox, image, source):
    result = sandbox.run(source, image)
    assert result.status == ToolStatus.ERROR
    assert result.text.startswith("PermissionError") and "1" in result.text


@pytest.mark.parametrize("level", ["auto", "L0"])
def test_output_that_is_not_wanted_goes_to_the_null_device(image, level):
    code = (
        "import contextlib, os\nwith open(os.devnull, 'w') as f, contextlib.redirect_stdout(f): print('x' * 9999)\n"
        "open(os.devnull, 'a').write('x')\nprint(open(os.devnull).read() == '')"
    )
    with PythonSandbox(n_workers=1, timeout_s=30.0, level=level) as box:
        assert box.run(code, image).text == "True"


def test_threads_still_work(sandbox, image):
    code = "import threading\nt = threading.Thread(target=print, args=('hi',))\nt.start()\nt.join()"
    assert sandbox.run(code, image).text == "hi"


def test_only_a_regular_file_is_collected(sandbox, image):
    result = sandbox.run("import os\nos.mkdir('path_to_output_image.jpg')", image)
    assert (result.status, result.text) == (ToolStatus.ERROR, verdict.IRREGULAR_OUTPUT)


def test_an_output_that_is_no_image_is_an_error(sandbox, image):
    result = sandbox.run("open('path_to_output_image.jpg', 'wb').write(b'\\xff\\xd8' * 500)", image)
    assert (result.status, result.text) == (ToolStatus.ERROR, "The output image could not be read.")
    result = sandbox.run("import numpy as np, cv2\ncv2.imwrite('path_to_output_image.jpg', np.ones((101, 100)))", image)
    assert (result.status, result.text) == (ToolStatus.ERROR, "The output image is too large (100x101).")


def test_the_child_holds_nothing_of_ours(sandbox, image, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "s3cret")
    with PythonSandbox(n_workers=1) as fresh:
        code = (
            "import os, sys\ndef is_open(fd):\n    try:\n        return bool(os.fstat(fd))\n    except OSError:\n"
            "        return False\nprint('SECRET_TOKEN' in os.environ, [fd for fd in range(1024) if is_open(fd)])\n"
            "print('jax' in sys.modules, os.getcwd(), os.listdir('.'))"
        )
        # 0-2, the note and standard error once more.
        assert fresh.run(code, image).text == "False [0, 1, 2, 3, 4]\nFalse . ['path_to_input_image.jpg']"


def test_one_call_leaves_no_trace_for_the_next(sandbox, image):
    poison = "import builtins, os, numpy\nbuiltins.len = None\nnumpy.add = None\nopen('left', 'w').close()\nprint(1)"
    for _ in range(2):
        sandbox.run(poison, image)
    clean_run = sandbox.run("import os, numpy\nprint(len('ab'), numpy.add(1, 1), os.path.exists('left'))", image)
    assert clean_run.text == "2 2 False"


def test_random_results_repeat_for_the_same_call_and_differ_between_calls(sandbox):
    code = "import random, numpy as np\nprint(random.random(), np.random.rand(), hash('a'), {'b', 'c', 'd'})"
    first, again, other = (sandbox.run(code, make_image(seed)).text for seed in (1, 1, 2))
    assert first == again != other


def test_a_worker_killed_in_mid_call_is_replaced_and_the_call_done(worker_at_work, image):
    box, worker, future = worker_at_work
    children = descendants(worker.process.pid)
    assert children
    os.kill(worker.process.pid, signal.SIGKILL)
    result = future.result(timeout=10)
    assert (result.status, result.text) == (ToolStatus.OK, "done")
    assert box.run("print(5)", image).text == "5"
    assert not worker.root or not os.path.exists(worker.root)
    assert wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in children))


def test_a_call_whose_worker_dies_twice_is_infra(worker_at_work, image):
    box, worker, future = worker_at_work
    os.kill(worker.process.pid, signal.SIGKILL)
    assert wait_until(lambda: box.workers and worker not in box.workers)
    (second,) = box.workers
    time.sleep(0.2)
    os.kill(second.process.pid, signal.SIGKILL)
    assert future.result(timeout=10).status == ToolStatus.INFRA
    assert box.run("print(5)", image).text == "5"


def test_a_replacement_outlives_the_thread_that_asked_for_it(image):
    with PythonSandbox(n_workers=1) as box:
        (worker,) = box.workers
        os.kill(worker.process.pid, signal.SIGKILL)
        worker.process.wait()  # until then it may still serve
        thread = threading.Thread(target=box.run, args=("print(1)", image))
        thread.start()
        thread.join()
        (replacement,) = box.workers
        time.sleep(0.1)
        assert replacement.process.poll() is None


def test_hundred_mixed_calls_from_eight_threads_are_right_and_leave_nothing(image):
    processes, folders = descendants(), scratch_folders()
    descriptors = sorted(os.listdir("/proc/self/fd"))
    closed_modes = "import os\nos.makedirs('d/e')\nos.chmod('d/e', 0)\nos.chmod('.', 0)\nprint('modes')"
    deep = "import os\nfor _ in range(150):\n    os.mkdir('d')\n    os.chdir('d')\nprint('deep')"

    def check(number):
        match number % 5:
            case 0:
                picture = make_image(number, 20 + number % 7, 30)
                result = box.run(INVERT, picture)
                return np.array_equal(result.images[0].pixels, 255 - picture.pixels)
            case 1:
                return box.run(f"print({number} ** 2)", image).text == str(number**2)
            case 2:
                return box.run(f"1 / 0  # {number}", image).status == ToolStatus.ERROR
            case 3:
                return box.run(closed_modes, image).text == "modes"
            case _:
                slow = number == 49
                result = box.run("while True: pass" if slow else deep, image)
                return result.status == ToolStatus.LIMIT if slow else result.text == "deep"

    with PythonSandbox(n_workers=2, timeout_s=1.5) as box:
        open_descriptors = len(os.listdir("/proc/self/fd"))
        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            assert all(threads.map(check, range(100)))
        assert len(os.listdir("/proc/self/fd")) == open_descriptors
        # Two workers, and each with a process that forks and a waiting child; at L1 one more process holds each
        # worker's namespaces. Either worker may keep its image decoder, depending on how the calls fell to them.
        fewest = {"L0": 6, "L1": 8}[box.level]
        assert wait_until(lambda: fewest <= len(descendants() - processes) <= fewest + 2)
        bases = [os.path.join(scratch.choose_root(), folder) for folder in scratch_folders() - folders]
        assert len(bases) == (box.level == "L0")  # L1 keeps nothing in the host's file system
        calls = [os.path.join(base, worker) for base in bases for worker in os.listdir(base)]
        assert wait_until(lambda: all(len(os.listdir(path)) == 1 for path in calls))
    assert wait_until(lambda: descendants() <= processes)
    assert scratch_folders() <= folders
    assert sorted(os.listdir("/proc/self/fd")) == descriptors


@pytest.mark.parametrize("level", ["auto", "L0"])
def test_a_killed_parent_leaves_neither_processes_nor_folders(level):
    program = (
        "import time\nfrom arft_jax.tools.sandbox import PythonSandbox\n"
        f"box = PythonSandbox(n_workers=1, level='{level}')\n"
        "print(*[w.process.pid for w in box.workers], flush=True)\ntime.sleep(60)"
    )
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as parent:
        worker_pid = int(parent.stdout.readline())
        assert scratch_folders(parent.pid) or level != "L0"
        parent.kill()
    assert wait_until(lambda: not os.path.exists(f"/proc/{worker_pid}"))
    assert wait_until(lambda: not scratch_folders(parent.pid))


def test_close_ends_running_calls_as_infra_and_may_be_repeated(image):
    box = PythonSandbox(n_workers=1, timeout_s=20.0)
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        futures = [threads.submit(box.run, "import time\ntime.sleep(15)", image) for _ in range(2)]
        time.sleep(0.1)
        box.close()
        assert [future.result(timeout=5).status for future in futures] == [ToolStatus.INFRA] * 2
    box.close()
    assert box.run("print(1)", image).status == ToolStatus.INFRA


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="n_workers must be at least 1: got 0"):
        PythonSandbox(n_workers=0)
    with pytest.raises(ValueError, match="timeout_s must be above 0: got -1"):
        PythonSandbox(timeout_s=-1)


def test_an_image_of_another_shape_is_the_callers_mistake(sandbox):
    with pytest.raises(ValueError, match=r"uint8\[height, width, 3\]: got float64\[2, 2\]"):
        sandbox.run("print(1)", Image(np.zeros((2, 2))))


def test_a_worker_that_cannot_start_is_reported(monkeypatch):
    monkeypatch.setattr("arft_jax.tools.sandbox.pool._WORKER", "/nonexistent/worker.py")
    folders = scratch_folders()
    with pytest.raises(RuntimeError, match="worker did not start"):
        PythonSandbox(n_workers=1)
    assert scratch_folders() <= folders


def read_of(pid, name):
    with open(f"/proc/{pid}/{name}", encoding="ascii") as f:
        return f.read()


@pytest.mark.parametrize("level", ["auto", "L0"])
def test_calls_end_first_where_memory_runs_out(level, image):
    before = descendants()
    with PythonSandbox(n_workers=1, level=level) as box:
        box.run(INVERT, image)
        scores = sorted(int(read_of(pid, "oom_score_adj")) for pid in descendants() - before)
    own = int(read_of("self", "oom_score_adj"))
    # The worker, and at L1 the process that holds its namespaces; then what forks, the waiting child and the decoder.
    assert scores == [own] * (len(scores) - 3) + [1000] * 3 and len(scores) in (4, 5)


@pytest.mark.parametrize("level", ["L1", "L0"])
def test_more_threads_than_may_be_end_the_call(level, image):
    code = (
        "import threading, time\n"
        "threading.stack_size(32768)\n"
        "for n in range({}): threading.Thread(target=time.sleep, args=(1.5,), daemon=True).start()\n"
        "time.sleep(0.3)\nprint('done')"
    )
    with PythonSandbox(n_workers=1, level=level) as box:
        few, many = box.run(code.format(60), image), box.run(code.format(200), image)
    assert (few.status, few.text) == (ToolStatus.OK, "done")
    if os.getuid() and level == "L1":  # the kernel refuses the next one, unless root is asked
        assert many.status in (ToolStatus.LIMIT, ToolStatus.ERROR)
    else:
        assert (many.status, many.text) == (ToolStatus.LIMIT, verdict.TOO_MANY_THREADS)


def test_numbers_of_processes_in_a_namespace_do_not_count_earlier_calls(image):
    if not os.access("/proc/sys/kernel/ns_last_pid", os.W_OK):
        pytest.skip("this host does not let a namespace choose its numbers")
    code = (
        "import os, threading\nseen = []\n"
        "for _ in range({}):\n"
        "    t = threading.Thread(target=lambda: seen.append(threading.get_native_id()))\n"
        "    t.start(); t.join()\nprint(os.getpid(), seen)"
    )
    with PythonSandbox(n_workers=1, level="L1") as box:
        first = box.run(code.format(2), image).text
        for n in (1, 9, 30):
            box.run(code.format(n) + "\n" + INVERT, image)  # also starts and ends decoders
        assert box.run(code.format(2), image).text == first
