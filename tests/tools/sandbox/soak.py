"""Many mixed calls, one in five an attack, from eight threads: nothing may come out wrong, stay behind or grow.

    python tests/tools/sandbox/soak.py [calls] [level]

Honest calls are checked against what they must give: an inverted image pixel by pixel, arithmetic, a state that the
call before must not have left, an error of the program's own. Prints one JSON object; ``wrong`` and ``left`` must be
empty, and resident memory as large at the end as after the first tenth.
"""

import concurrent.futures
import contextlib
import json
import os
import random
import sys
import time

import attack_run
import attacks
import numpy as np

from arft_jax.tools.sandbox import PythonSandbox
from arft_jax.trajectory import Image, ToolStatus

N_THREADS, N_WORKERS = 8, 2
TIMEOUT_S, MEMORY_MB, MAX_IMAGE_PX = 0.5, 256, 100_000
HOSTILE = 0.2
INVERT = """
from PIL import Image, ImageOps
ImageOps.invert(Image.open('path_to_input_image.jpg')).save('path_to_output_image.jpg', 'PNG')
"""
CLEAN = "import os, numpy, PIL.Image\nprint(os.listdir('.'), len('ab'), numpy.add(6, 36), hasattr(PIL, 'left'))"


def resident_mb(pids):
    """Resident memory of processes together, shared pages counted in each."""
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/statm", encoding="ascii") as f:
            total += int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    return total / 2**20


def family(pid):
    """A process and all below it; what ends meanwhile is left out."""
    found = [str(pid)]
    for pid in found:
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as f:
                    found += f.read().split()
    return [pid for pid in found if os.path.exists(f"/proc/{pid}/statm")]


def honest(box, number):
    """What is wrong with an ordinary call's result; empty: nothing."""
    picture = Image(np.random.default_rng(number).integers(0, 256, (20 + number % 60, 40, 3), dtype=np.uint8))
    kind = number % 4
    if kind == 0:
        seen = box.run(INVERT, picture)
        good = len(seen.images) == 1 and np.array_equal(seen.images[0].pixels, 255 - picture.pixels)
    elif kind == 1:
        seen = box.run(f"print({number} ** 2)", picture)
        good = seen.text == str(number**2)
    elif kind == 2:
        seen = box.run(CLEAN, picture)
        good = seen.text == "['path_to_input_image.jpg'] 2 42 False"
    else:
        seen = box.run(f"1 / 0  # {number}", picture)
        good = seen.status == ToolStatus.ERROR and seen.text.startswith("ZeroDivisionError")
    return [] if good else [f"call {number}, kind {kind}: {seen.status} {seen.text[:100]}"]


def hostile(box, attack, names):
    """As :func:`honest`, of an attack."""
    seen = box.run(attack.code(names), attack_run.IMAGE)
    bad = "BREACH" in seen.text or seen.status == ToolStatus.INFRA
    return [f"{attack.name}: {seen.status} {seen.text[:100]}"] if bad else []


def soak(n_calls, level="auto"):
    """The figures of one run (see the module)."""
    dice = random.Random(n_calls)
    with attack_run.targets(None) as (names, readable, damage):
        alive, descriptors = set(attack_run.children()), sorted(os.listdir("/proc/self/fd"))
        with PythonSandbox(N_WORKERS, TIMEOUT_S, MEMORY_MB, 1000, MAX_IMAGE_PX, level, readable=[readable]) as box:
            chosen = [attack for attack in attacks.read_all() if attack.level in ("", box.level)]
            plan = [dice.choice(chosen) if dice.random() < HOSTILE else None for _ in range(n_calls)]

            def call(number):
                return honest(box, number) if plan[number] is None else hostile(box, plan[number], names)

            def run(numbers):
                with concurrent.futures.ThreadPoolExecutor(N_THREADS) as threads:
                    faults = [fault for found in threads.map(call, numbers) for fault in found]
                return faults, resident_mb(family(os.getpid()))

            started, tenth = time.monotonic(), n_calls // 10
            wrong, early_mb = run(range(tenth))
            more, late_mb = run(range(tenth, n_calls))
            seconds, line = time.monotonic() - started, box.line
        time.sleep(0.1)
        left = [f"process {pid}" for pid in attack_run.children() if pid not in alive] + attack_run.left_overs()
        left += [] if sorted(os.listdir("/proc/self/fd")) == descriptors else ["descriptors"]
        left += damage()
    n_hostile = sum(attack is not None for attack in plan)
    return {
        "line": line, "calls": n_calls, "hostile": n_hostile, "attacks": len({a.name for a in plan if a is not None}),
        "wrong": wrong + more, "left": left, "early_mb": round(early_mb), "late_mb": round(late_mb),
        "seconds": round(seconds, 1),
    }  # fmt: skip


if __name__ == "__main__":
    os.environ["ARFT_SECRET"] = "s3cret"
    print(json.dumps(soak(int(sys.argv[1]) if len(sys.argv) > 1 else 2000, *sys.argv[2:3]), indent=1))
