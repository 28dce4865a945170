"""Runs attacks in one configuration and prints one JSON object a line: each attack's outcome, then what was left.

    python attack_run.py '{"level": "L0", "user": 65534, "abi": 1, "deny_namespaces": true, "weak": "", "names": []}'

A process of its own, because it may give up its user, take a filter on, and check at the end that nothing of it is
left. ``weak`` names a defence to leave out (weak_worker.py).
"""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

import attacks
import numpy as np
import PIL.Image
import weaken

from arft_jax.tools.sandbox import PythonSandbox, kernel, scratch
from arft_jax.trajectory import Image, ToolStatus

MEMORY_MB, MAX_IMAGE_PX, TIMEOUT_S = 256, 10_000, 1.0
FILE_BYTES = 8 << 20
TARGETS = {"memory_mb": MEMORY_MB, "scratch_bytes": 4 * FILE_BYTES, "file_bytes": FILE_BYTES}
IMAGE = Image(np.arange(84 * 60 * 3, dtype=np.uint32).astype(np.uint8).reshape(84, 60, 3))
NEXT = (
    "import os, random, numpy, cv2, PIL.Image\nassert os.listdir('.') == ['path_to_input_image.jpg']\n"
    "x = PIL.Image.open('path_to_input_image.jpg')\nprint(numpy.add(6, 36), len('ab'), round(random.random(), 6))\n"
    "x.save('path_to_output_image.jpg', 'PNG')\n"
)


@contextlib.contextmanager
def targets(user):
    """Files, sockets and a process that attacks aim at; yields their names and a check that they are whole."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="arft-targets-"))
    inner = folder / "outside"
    for path in (inner, inner / "empty", folder / "lib"):
        path.mkdir()
    (inner / "secret").write_text("top secret")
    (folder / "lib" / "readable").write_text("may be read")
    with contextlib.suppress(OSError):  # a file system without extended attributes
        os.setxattr(folder / "lib" / "readable", "user.bait", b"1")
    PIL.Image.new("RGB", (9, 9)).save(inner / "picture.png")
    victim = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(3600)"], start_new_session=True)
    listeners = [socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)]
    listeners[1].bind(str(inner / "unix"))
    listeners[2].bind("\0" + folder.name)
    for listener in listeners:
        listener.listen()
        listener.setblocking(False)

    def state():
        paths = sorted(folder.rglob("*"))
        return [(str(p), p.stat().st_mode, p.stat().st_uid, p.stat().st_mtime_ns, p.stat().st_size) for p in paths]

    before = state()

    def damage():
        found = [] if state() == before else ["files outside changed"]
        found += [] if victim.poll() is None else ["a process was killed"]
        for listener in listeners:
            with contextlib.suppress(BlockingIOError):
                listener.accept()
                found.append("a connection came in")
        return found

    names = {
        "folder": str(inner), "secret": str(inner / "secret"), "picture": str(inner / "picture.png"),
        "readable": str(folder / "lib" / "readable"), "port": listeners[0].getsockname()[1],
        "unix": str(inner / "unix"), "abstract": folder.name, "victim": victim.pid, "victim_group": victim.pid,
        "trainer": os.getpid(), "home": str(folder),
    }  # fmt: skip
    try:
        yield TARGETS | names, str(folder / "lib"), damage
    finally:
        victim.kill()
        victim.wait()
        for listener in listeners:
            listener.close()
        scratch.remove(str(folder))


def become(user):
    """Goes on as another user, with the interpreter still in reach where root's home holds it."""
    prefix = pathlib.Path(sys.base_prefix)
    if str(prefix).startswith("/root/"):
        kernel.unshare(0x20000)
        kernel.mount(None, "/", None, 16384 | 1 << 18)
        fd = os.open("/root", os.O_PATH)
        kernel.mount("tmpfs", "/root", "tmpfs", 0, "mode=755")
        prefix.mkdir(parents=True)
        top = pathlib.Path(*prefix.parts[:3])
        kernel.mount(f"/proc/self/fd/{fd}/{prefix.relative_to('/root')}", str(prefix), None, 4096 | 16384)
        os.close(fd)
        assert top.exists()
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    os.environ["HOME"] = "/nonexistent"
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)


def left_overs():
    """Names of what a sandbox of this process could have left."""
    roots = {tempfile.gettempdir(), scratch.choose_root(), "/dev/shm"}
    ours = (f"arft-sandbox-{os.getpid()}-", "arft-left")
    return sorted(name for root in roots for name in os.listdir(root) if name.startswith(ours))


def children():
    with open(f"/proc/self/task/{os.getpid()}/children") as f:
        return f.read().split()


def attack_all(box, chosen, names, damage):
    """Makes the attacks, each followed by an ordinary call; prints an outcome each."""
    expected = box.run(NEXT, IMAGE)
    assert expected.status == ToolStatus.OK, expected.text
    assert np.array_equal(expected.images[0].pixels, IMAGE.pixels)
    for attack in chosen:
        result = box.report(attack.code(names), IMAGE)
        observation = result.observation
        faults = damage()
        if "BREACH" in observation.text:
            faults.append(observation.text[:200])
        if str(observation.status) not in attack.statuses:
            faults.append(f"status {observation.status}, not {' or '.join(attack.statuses)}: {observation.text[:200]}")
        after = box.run(NEXT, IMAGE)
        if (after.status, after.text) != (expected.status, expected.text):
            faults.append(f"the next call: {after.status} {after.text[:200]}")
        elif not np.array_equal(after.images[0].pixels, IMAGE.pixels):
            faults.append("the next call: another image")
        print(json.dumps({"name": attack.name, "faults": faults, "text": observation.text[:120],
                          "status": str(observation.status), "seconds": observation.seconds}), flush=True)  # fmt: skip


def main():
    config = json.loads(sys.argv[1])
    os.environ["ARFT_SECRET"] = "s3cret"
    if config.get("user"):
        become(config["user"])
    if config.get("deny_namespaces"):
        weaken.deny_namespaces()
    weaken.choose(config.get("weak", ""), config.get("abi", 0))
    chosen = [a for a in attacks.read_all() if not config.get("names") or a.name in config["names"]]
    with targets(config.get("user")) as (names, readable, damage):
        alive, descriptors = children(), sorted(os.listdir("/proc/self/fd"))
        with PythonSandbox(1, TIMEOUT_S, MEMORY_MB, 1000, MAX_IMAGE_PX, config["level"], readable=[readable]) as box:
            print(json.dumps({"line": box.line, "level": box.level}), flush=True)
            chosen = [attack for attack in chosen if attack.level in ("", box.level)]
            attack_all(box, chosen, names, damage)
        time.sleep(0.05)
        left = [f"process {pid}" for pid in children() if pid not in alive] + left_overs()
        if sorted(os.listdir("/proc/self/fd")) != descriptors:
            left.append("descriptors")
    print(json.dumps({"left": left}), flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    main()
