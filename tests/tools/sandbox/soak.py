"""Many mixed calls, one in five an attack, from eight threads: nothing may come out wrong, stay behind or grow.

    python tests/tools/sandbox/soak.py [calls] [level]

Honest calls are checked against what they must give: an inverted image pixel by pixel, arithmetic, a state that the
call before must not have left, an error of the program's own. Attacks must end as their tables say. The calls run in
ten parts; after each the sandbox is looked at, idle: resident memory of the processes that last, and the most
descriptors that a worker has open; and the memory of every process from which a call could inherit is searched for
canaries, which the honest calls hold (canary.py). Prints one JSON object; ``wrong`` and ``left`` must be empty, and
memory and descriptors as many after the last part as after the first.
"""

import concurrent.futures
import contextlib
import itertools
import json
import os
import random
import statistics
import sys
import time

import attack_run
import attacks
import canary
import numpy as np

from arft_jax.tools.sandbox import PythonSandbox, confine
from arft_jax.trajectory import Image, ToolStatus

N_THREADS, N_WORKERS = 8, 2
TIMEOUT_S, MEMORY_MB, MAX_IMAGE_PX = 1.0, 256, 100_000
HOSTILE = 0.2
N_PARTS, N_LOOKS = 10, 5
INVERT = """
from PIL import Image, ImageOps
ImageOps.invert(Image.open('path_to_input_image.jpg')).save('path_to_output_image.jpg', 'PNG')
"""
CLEAN = "import os, numpy, PIL.Image\nprint(os.listdir('.'), len('ab'), numpy.add(6, 36), hasattr(PIL, 'left'))"


def resident_mb():
    """Resident memory of this process and of those below it that last, shared pages counted in each.

    A waiting child lasts no longer than its call, and a decoder comes and goes: both are held by a filter.
    """
    total = 0
    for pid in canary.family(os.getpid()):
        with contextlib.suppress(OSError):
            if not canary.is_filtered(int(pid)):
                with open(f"/proc/{pid}/statm", encoding="ascii") as f:
                    total += int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    return total / 2**20


def most_descriptors(box):
    """Of the process of any worker; 0 where only root may look (a worker cannot be traced by its own user)."""
    most = 0
    for worker in list(box.workers):
        for pid in canary.family(worker.process.pid):
            with contextlib.suppress(OSError):
                most = max(most, len(os.listdir(f"/proc/{pid}/fd")))
    return most


def look(box):
    """(resident MB, most descriptors) of the idle sandbox, medians of a few looks: workers still tidy up."""
    seen = []
    for _ in range(N_LOOKS):
        time.sleep(0.05)
        seen.append((resident_mb(), most_descriptors(box)))
    return [round(statistics.median(values)) for values in zip(*seen, strict=True)]


def honest(box, number, planted):
    """What is wrong with an ordinary call's result; empty: nothing. Source, pixels and what it prints hold canaries."""
    pixels = np.random.default_rng(number).integers(0, 256, (20 + number % 60, 40, 3), dtype=np.uint8)
    pixels[::2] = planted.picture(*pixels[::2].shape[:2]).pixels
    picture, kind, mark = Image(pixels), number % 4, f"# {planted.of['source']}\n"
    if kind == 0:
        seen = box.run(mark + INVERT, picture)
        good = len(seen.images) == 1 and np.array_equal(seen.images[0].pixels, 255 - picture.pixels)
    elif kind == 1:
        seen = box.run(f"{mark}print({number} ** 2, '{planted.of['printed']}')", picture)
        good = seen.text == f"{number**2} {planted.of['printed']}"
    elif kind == 2:
        seen = box.run(mark + CLEAN, picture)
        good = seen.text == "['path_to_input_image.jpg'] 2 42 False"
    else:
        seen = box.run(f"{mark}1 / 0  # {number}", picture)
        good = seen.status == ToolStatus.ERROR and seen.text.startswith("ZeroDivisionError")
    return [] if good else [f"call {number}, kind {kind}: {seen.status} {seen.text[:100]}"]


def hostile(box, attack, names):
    """As :func:`honest`, of an attack. On a busy machine any of them may meet the time limit first."""
    seen = box.run(attack.code(names), attack_run.IMAGE)
    is_late = seen.status == ToolStatus.LIMIT and seen.text == f"Time limit of {TIMEOUT_S:g} s reached."
    bad = "BREACH" in seen.text or str(seen.status) not in attack.statuses and not is_late
    return [f"{attack.name}: {seen.status} {seen.text[:100]}"] if bad else []


def soak(n_calls, level="auto"):
    """The figures of one run (see the module)."""
    dice = random.Random(n_calls)
    confine.be_reaper()
    with attack_run.targets() as (names, readable, damage):
        alive, descriptors = canary.family(os.getpid()), sorted(os.listdir("/proc/self/fd"))
        with PythonSandbox(N_WORKERS, TIMEOUT_S, MEMORY_MB, 1000, MAX_IMAGE_PX, level, readable=[readable]) as box:
            chosen = [attack for attack in attacks.read_all() if attack.level in ("", box.level)]
            plan = [dice.choice(chosen) if dice.random() < HOSTILE else None for _ in range(n_calls)]

            planted = canary.Canaries()
            names = names | {"hunt": planted.hunt()}

            def call(number):
                return honest(box, number, planted) if plan[number] is None else hostile(box, plan[number], names)

            started, wrong, looks, kept = time.monotonic(), [], [], []
            for first, last in itertools.pairwise(n_calls * part // N_PARTS for part in range(N_PARTS + 1)):
                with concurrent.futures.ThreadPoolExecutor(N_THREADS) as threads:
                    wrong += [fault for found in threads.map(call, range(first, last)) for fault in found]
                looks.append(look(box))
                kept += canary.scan(canary.inheritable(box), planted.needles())
            seconds, line = time.monotonic() - started, box.line
        time.sleep(0.1)
        left = attack_run.left_processes(alive) + attack_run.left_overs()
        left += [] if sorted(os.listdir("/proc/self/fd")) == descriptors else ["descriptors"]
        left += damage() + kept
    n_hostile = sum(attack is not None for attack in plan)
    return {
        "line": line, "calls": n_calls, "hostile": n_hostile, "attacks": len({a.name for a in plan if a is not None}),
        "wrong": wrong, "left": left, "memory_mb": [mb for mb, _ in looks], "descriptors": [n for _, n in looks],
        "seconds": round(seconds, 1),
    }  # fmt: skip


if __name__ == "__main__":
    os.environ["ARFT_SECRET"] = "s3cret"
    print(json.dumps(soak(int(sys.argv[1]) if len(sys.argv) > 1 else 2000, *sys.argv[2:3]), indent=1))
