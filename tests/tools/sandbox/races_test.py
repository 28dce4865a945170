"""Calls that meet: two at once on one file name, one that looks for the other's, and a trainer killed under a call."""

import concurrent.futures
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from arft_jax.tools.sandbox import PythonSandbox, scratch
from arft_jax.trajectory import Image, ToolStatus

IMAGE = Image(np.zeros((8, 8, 3), np.uint8))
SAME_NAME = """
import os, time
import numpy as np
from PIL import Image
started, left = time.monotonic(), ['name', 'path_to_input_image.jpg', 'path_to_output_image.jpg']
while time.monotonic() < started + 0.5:
    Image.fromarray(np.full((8, 8, 3), {number}, np.uint8)).save('path_to_output_image.jpg', 'PNG')
    with open('name', 'w') as f: f.write('{number}')
    time.sleep(0.005)
    with open('name') as f: assert f.read() == '{number}'
    assert sorted(os.listdir('.')) == left
print(started, time.monotonic())
"""
READ_ALL = """
import time
for _ in range(20):
    for path in {paths}:
        try: print('BREACH', open(path).read())
        except FileNotFoundError: pass
        except PermissionError: print('refused')
    time.sleep(0.02)
"""
PARENT = """
from arft_jax.tools.sandbox import PythonSandbox
from arft_jax.trajectory import Image
import numpy as np
box = PythonSandbox(n_workers=1, timeout_s=60.0, level='{level}')
print('ready', flush=True)
box.run('while True: pass', Image(np.zeros((8, 8, 3), np.uint8)))
"""
CPU_S = 0.1  # that a child uses for no other reason than a call


def below(pid):
    """{pid: processor seconds} of all processes below one that live."""
    parents, used = {}, {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = pathlib.Path(f"/proc/{name}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            parents[int(name)] = int(fields[1])
            used[int(name)] = sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")
    found = [pid]
    for parent in found:
        found += [child for child, its_parent in parents.items() if its_parent == parent]
    return {child: used[child] for child in found[1:]}


def wait_until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def is_at_work(pid):
    """Whether a process at the end of the line below ``pid`` computes: there a call runs, and nothing else does."""
    return any(used >= CPU_S and not below(child) for child, used in below(pid).items())


@pytest.mark.parametrize("level", ["auto", "L0"])
def test_two_calls_at_once_on_one_name_see_each_its_own(level):
    with PythonSandbox(2, 10.0, level=level) as box, concurrent.futures.ThreadPoolExecutor(2) as threads:
        seen = list(threads.map(lambda number: box.run(SAME_NAME.format(number=number), IMAGE), (7, 200)))
    assert [s.status for s in seen] == [ToolStatus.OK] * 2, [s.text for s in seen]
    (first, first_end), (other, other_end) = (map(float, s.text.split()) for s in seen)
    assert max(first, other) < min(first_end, other_end)  # they did run at once
    for number, observation in zip((7, 200), seen, strict=True):
        (image,) = observation.images
        np.testing.assert_array_equal(image.pixels, np.full((8, 8, 3), number))


def test_a_call_cannot_read_what_one_beside_it_writes():
    """At level L0, where both folders lie in the host's file system."""
    with PythonSandbox(2, 10.0, level="L0") as box, concurrent.futures.ThreadPoolExecutor(2) as threads:
        paths = [os.path.join(worker.root, "scratch", "call", "name") for worker in box.workers]
        writer = threads.submit(box.run, SAME_NAME.format(number=7), IMAGE)
        assert wait_until(lambda: any(map(os.path.exists, paths)))
        reader = box.run(READ_ALL.format(paths=paths), IMAGE)
        assert writer.result().status == ToolStatus.OK
    assert set(reader.text.split()) == {"refused"}  # as often as the other call was there


@pytest.mark.parametrize("level", ["auto", "L0"])
def test_a_trainer_killed_in_mid_call_leaves_neither_processes_nor_folders(level):
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(path for path in sys.path if path))
    command = [sys.executable, "-c", PARENT.format(level=level)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout.readline() == "ready\n"
        assert wait_until(lambda: is_at_work(parent.pid))
        processes, prefix = below(parent.pid), f"arft-sandbox-{parent.pid}-"
        assert len(processes) >= 2
        parent.send_signal(signal.SIGKILL)
    folders = pathlib.Path(scratch.choose_root())
    assert wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in processes), 20.0)
    assert wait_until(lambda: not list(folders.glob(prefix + "*")), 20.0)
