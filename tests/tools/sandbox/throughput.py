"""Calls a second of crop + resize + JPEG at 640 x 480, 16 in flight, by level, against a bare pre-forked worker.

    python tests/tools/sandbox/throughput.py [rounds] [calls a round] [workers]

The configurations take turns round by round, so that a busy machine is busy for all of them; the figures are medians.
``bare`` is the same worker with a fork a call and nothing else: no limits, no confinement, decoding in the worker.
``cold`` starts an interpreter a call. Prints one JSON object.
"""

import concurrent.futures
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import PIL.Image
import weaken

from arft_jax.tools.sandbox import PythonSandbox, pool
from arft_jax.trajectory import Image, ToolStatus

IN_FLIGHT = 16
CODE = """
import cv2
image = cv2.imread('path_to_input_image.jpg')
height, width = image.shape[:2]
crop = image[height // 8 : height - height // 8, width // 8 : width - width // 8]
cv2.imwrite('path_to_output_image.jpg', cv2.resize(crop, (width, height), interpolation=cv2.INTER_CUBIC))
"""


def smooth_image():
    """A picture that compresses as photographs do."""
    coarse = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    return Image(np.asarray(PIL.Image.fromarray(coarse).resize((640, 480), PIL.Image.Resampling.BICUBIC)))


def rate_of(box, image, n_calls):
    """(calls a second, their wall times in seconds)."""
    times = []

    def call(_):
        started = time.perf_counter()
        result = box.run(CODE, image)
        times.append(time.perf_counter() - started)
        assert result.status == ToolStatus.OK and result.images[0].size == (480, 640), result.text

    started = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(IN_FLIGHT) as threads:
        list(threads.map(call, range(n_calls)))
    return n_calls / (time.perf_counter() - started), times


def cpu_s(box):
    """Processor seconds of this process and of the sandbox's, dead children included."""
    pids, total = [str(worker.process.pid) for worker in box.workers], 0.0
    while pids:
        pid = pids.pop()
        with open(f"/proc/{pid}/stat") as f:
            total += sum(map(int, f.read().rpartition(")")[2].split()[11:15])) / os.sysconf("SC_CLK_TCK")
        with open(f"/proc/{pid}/task/{pid}/children") as f:
            pids += f.read().split()
    return total + time.process_time()


def cold_rate(image, n_calls):
    """Calls a second where each starts an interpreter, two at a time."""
    with tempfile.TemporaryDirectory() as folder:
        PIL.Image.fromarray(image.pixels).save(f"{folder}/path_to_input_image.jpg", "PPM")
        command = [sys.executable, "-c", "import numpy, PIL.Image\n" + CODE]
        started = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(2) as threads:
            done = threads.map(lambda _: subprocess.run(command, cwd=folder).returncode, range(n_calls))
            assert not any(done)
        return n_calls / (time.perf_counter() - started)


def open_box(name, n_workers):
    """A sandbox at a level, or bare."""
    kept = pool._environment, pool._WORKER, pool.Pool.attempt_canaries
    if name == "bare":
        weaken.choose("bare", 0)
    try:
        return PythonSandbox(n_workers, 10.0, level="unsafe" if name == "bare" else name)
    finally:
        pool._environment, pool._WORKER, pool.Pool.attempt_canaries = kept


def measure(rounds, n_calls, n_workers, names=("bare", "L0", "L1")):
    """Medians over rounds: calls a second, and as parts of bare within the same round."""
    image = smooth_image()
    boxes = {name: open_box(name, n_workers) for name in names}
    rates, waits = {name: [] for name in names}, {name: [] for name in names}
    cold, cpu = [], {name: [] for name in names}
    try:
        for box in boxes.values():
            rate_of(box, image, 8)
        for number in range(rounds):
            for name in names if number % 2 else names[::-1]:
                before = cpu_s(boxes[name])
                rate, times = rate_of(boxes[name], image, n_calls)
                cpu[name].append((cpu_s(boxes[name]) - before) / n_calls)
                rates[name].append(rate)
                waits[name] += times
            cold.append(cold_rate(image, 4))
    finally:
        for box in boxes.values():
            box.close()
    ratios = {name: [r / b for r, b in zip(rates[name], rates["bare"], strict=True)] for name in names}
    return {
        "calls_per_s": {name: round(statistics.median(rates[name]), 1) for name in names},
        "cold_per_s": round(statistics.median(cold), 1),
        "of_bare": {name: round(statistics.median(ratios[name]), 3) for name in names},
        "of_cold": {
            name: round(statistics.median(r / c for r, c in zip(rates[name], cold, strict=True)), 1) for name in names
        },
        "cpu_ms": {name: round(1e3 * statistics.median(cpu[name]), 2) for name in names},
        "p50_ms": {name: round(1e3 * statistics.median(waits[name]), 1) for name in names},
    }


if __name__ == "__main__":
    rounds, n_calls, n_workers = (*map(int, sys.argv[1:]), *(5, 100, 2)[len(sys.argv) - 1 :])
    print(json.dumps(measure(rounds, n_calls, n_workers)))
