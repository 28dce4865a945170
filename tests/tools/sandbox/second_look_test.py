"""What later calls are forked from holds nothing of earlier ones; and bounds that one call could not show."""

import importlib
import os
import pathlib
import secrets
import subprocess
import sys
import time

import numpy as np
import pytest

from arft_jax.tools.sandbox import PythonSandbox, scratch
from arft_jax.trajectory import Image, ToolStatus

HERE = pathlib.Path(__file__).parent
IMAGE = Image(np.zeros((20, 20, 3), np.uint8))
HOLDER = (
    "import sys\nkept = bytes(byte ^ 90 for byte in bytes.fromhex(sys.argv[1]))\nprint('ready', flush=True)\ninput()"
)
MANY_NAMES = "for i in range(200): open(str(i) + 'x' * 240, 'w').close()\nprint('made')"


@pytest.fixture
def canary(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    return importlib.import_module("canary")


def test_the_search_finds_what_a_process_holds_and_nothing_else(canary):
    text, other = secrets.token_bytes(16), secrets.token_bytes(16)
    masked = bytes(byte ^ 90 for byte in text).hex()
    command = [sys.executable, "-S", "-c", HOLDER, masked]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "ready\n"
        found = canary.scan([holder.pid], {"held": text, "not held": other})
        holder.communicate("\n")
    assert found and all(place.startswith(f"held in process {holder.pid}") for place in found)
    with pytest.raises(AssertionError, match="no memory could be read"):
        canary.scan([holder.pid], {"held": text})


@pytest.mark.parametrize("level", ["auto", "L0"])
def test_nothing_of_a_call_is_left_where_later_calls_come_from(canary, level):
    planted = canary.Canaries()
    with PythonSandbox(1, 5.0, level=level) as box:
        for _ in range(2):
            planted.plant(box)
        time.sleep(0.1)  # the next child is forked behind the reply
        pids = canary.inheritable(box)
        assert pids
        assert canary.scan(pids, planted.needles()) == []
        assert canary.scan([os.getpid()], planted.needles())  # who made the call has it: the search sees


def test_the_folder_tells_nothing_of_the_call_before_it(monkeypatch, tmp_path):
    """On a file system whose folders stay as large as they were once: ext4, where there is no memory for files."""
    for i in range(200):
        (tmp_path / f"{i}{'x' * 240}").touch()
    large = tmp_path.stat().st_size
    scratch.empty(str(tmp_path))
    if tmp_path.stat().st_size < large:
        pytest.skip("folders shrink on this file system")
    monkeypatch.setattr(scratch, "choose_root", lambda: str(tmp_path))
    with PythonSandbox(1, 5.0, level="L0") as box:
        seen = [box.run(code, IMAGE).text for code in ("import os\nprint(os.stat('.').st_size)", MANY_NAMES) * 2]
    assert seen[1] == seen[3] == "made"
    assert seen[0] == seen[2]


@pytest.mark.parametrize("level", ["auto", "L0"])
def test_an_image_may_be_larger_than_a_file_that_code_writes(level):
    """10.8 MB are given, where a file of the code's own may have 8 MiB."""
    large = Image(np.full((2000, 1800, 3), 7, np.uint8))
    with PythonSandbox(1, 5.0, max_image_px=10_000, level=level) as box:
        seen = box.run("import os\nprint(os.path.getsize('path_to_input_image.jpg'))", large)
    assert (seen.status, seen.text) == (ToolStatus.OK, str(large.pixels.nbytes + len("P6\n1800 2000\n255\n")))
