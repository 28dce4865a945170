"""The decoding of outputs is bounded for a call as a whole, and what it costs is the call's own."""

import numpy as np
import pytest

from arft_jax.tools.sandbox import PythonSandbox, decoder, pool, verdict
from arft_jax.trajectory import Image, ToolStatus

GREY = {"image_1": Image(np.full((8, 8, 3), 9, np.uint8))}
SHOW = "for _ in range({}): show(image_1)"
# Progressive JPEG of 3,000 scans more than it needs: 11 bytes each, and each goes over all pixels.
SCANS = """
import io, PIL.Image
buffer = io.BytesIO()
PIL.Image.new('RGB', (4000, 4000)).save(buffer, 'JPEG', progressive=True)
data = buffer.getvalue()
last = data.rindex(bytes([255, 0xDA]))
for n in range(1, 9):
    with open('output_%d.jpg' % n, 'wb') as f: f.write(data[:-2] + 3000 * data[last:-2] + data[-2:])
with open('path_to_output_image.jpg', 'wb') as f: f.write(data[:-2] + 3000 * data[last:-2] + data[-2:])
"""


@pytest.fixture
def slow_decoders(monkeypatch):
    monkeypatch.setattr(pool, "_WORKER", __file__.replace("decoder_test", "slow_decode_worker"))


def test_nine_images_that_are_slow_to_decode_are_the_calls_own_fault(slow_decoders):
    with PythonSandbox(n_workers=1, timeout_s=30.0, max_image_px=10_000) as box:
        black = {"image_1": Image(np.zeros((8, 8, 3), np.uint8))}  # 1.5 s each of 4 s in all
        seen = box.run(SHOW.format(8) + "\nimage_1.save('path_to_output_image.jpg')", black)
        assert seen.status == ToolStatus.ERROR and decoder.TOO_SLOW in seen.text
        (worker,) = box.workers
        assert worker.n_calls == 2  # the probe and this: no second try
        assert box.run(SHOW.format(1), black).status == ToolStatus.OK


def test_what_earlier_images_cost_does_not_end_a_later_one(slow_decoders):
    """Six sound images of 0.4 s: more processor time than one decoding process may have, which is 2 s here."""
    with PythonSandbox(n_workers=1, timeout_s=30.0, max_image_px=10_000) as box:
        for _ in range(6):
            seen = box.run(SHOW.format(1), GREY)
            assert seen.status == ToolStatus.OK, seen.text


def test_images_of_thousands_of_scans_are_refused_and_never_a_fault_of_ours():
    with PythonSandbox(n_workers=1, timeout_s=5.0, max_image_px=16_777_216) as box:
        seen = box.run(SCANS, GREY)
    assert (seen.status, seen.text) == (ToolStatus.ERROR, decoder.UNREADABLE)
    assert seen.seconds < 5.0


SPARSE = """
for n in range(1, 9):
    with open('output_%d.png' % n, 'wb') as f: f.truncate(67108864)
with open('path_to_output_image.jpg', 'wb') as f: f.truncate(67108864)
"""
# Two sound images, each with room for more behind it.
LARGE_TOGETHER = """
for _ in range(2): open(show(image_1), 'r+b').truncate(40000000)
"""


def most_memory_mb(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        return next(int(line.split()[1]) >> 10 for line in f if line.startswith("VmHWM"))


def test_files_are_read_one_by_one_and_within_one_bound():
    with PythonSandbox(n_workers=1, max_image_px=16_777_216, level="L0") as box:
        (worker,) = box.workers
        before = most_memory_mb(worker.process.pid)
        seen = box.run(SPARSE, GREY)
        assert (seen.status, seen.text) == (ToolStatus.ERROR, decoder.UNREADABLE)
        assert most_memory_mb(worker.process.pid) - before < 150  # one file, and once more as it is passed on
        seen = box.run(LARGE_TOGETHER, GREY)
        assert (seen.status, seen.text) == (ToolStatus.ERROR, "output_2.png: " + verdict.LARGE_OUTPUT)
