"""Runs attacks in one configuration and prints one JSON object a line: each attack's outcome, then what was left.

    python attack_run.py '{"level": "L0", "user": 65534, "abi": 1, "deny_namespaces": true, "weak": "", "names": []}'

A process of its own, because it may give up its user, take a filter on, and check at the end that nothing of it is
left. ``weak`` names a defence to leave out (weak_worker.py); ``own`` gives the canaries to the attack's own session.
"""

import contextlib
import ctypes
import json
import os
import pathlib
import signal
import socket
import struct
import subprocess
import sys
import sysconfig
import tempfile
import time

import attacks
import canary
import numpy as np
import PIL.Image
import weaken

import arft_jax
from arft_jax.tools.sandbox import PythonSandbox, confine, kernel, scratch
from arft_jax.tools.sandbox.syscalls import NUMBERS
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
CREDENTIALS = (
    ".aws/credentials", ".config/gcloud/application_default_credentials.json", ".netrc", ".ssh/id_rsa", ".kube/config",
    ".bash_history",
)  # fmt: skip


def handle_of(path):
    """A file's handle, by which root opens it past all folders; empty: its file system has none."""
    buffer = ctypes.create_string_buffer(struct.pack("=Ii", 128, 0), 8 + 128)
    number, mount_id = NUMBERS[os.uname().machine]["name_to_handle_at"], ctypes.c_int()
    with contextlib.suppress(OSError):
        kernel.syscall("name_to_handle_at", number, -100, os.fsencode(path), buffer, ctypes.byref(mount_id), 0)
        return buffer.raw.hex()
    return ""


def writable_memory(pid):
    """Address in a process that it may read and write: the far end of its stack, which it does not use."""
    with open(f"/proc/{pid}/maps", encoding="utf-8") as f:
        return next(int(line.partition("-")[0], 16) for line in f if "[stack]" in line)


def installed():
    """Files of this host that are no business of a call's: other packages, their data, the checkout."""
    numpy_folder = pathlib.Path(np.__file__).parent
    base = pathlib.Path(sys.base_prefix, "lib", f"python{sys.version_info[0]}.{sys.version_info[1]}")
    folders = {str(numpy_folder.parent), str(base / "site-packages"), str(base / "dist-packages"),
               "/usr/lib/python3/dist-packages", *sysconfig.get_paths().values()}  # fmt: skip
    folders = [path for path in sorted(folders) if path.endswith("-packages") and os.path.isdir(path)]
    return {"packages": folders, "checkout": str(pathlib.Path(arft_jax.__file__).parents[1])}


def lay_out(folder):
    """Makes the files that attacks aim at; returns their names."""
    inner, readable = folder / "outside", folder / "lib" / "readable"
    for path in (inner, inner / "empty", folder / "lib"):
        path.mkdir()
    (inner / "secret").write_text("top secret")
    readable.write_text("may be read")
    unread = folder / "lib" / "unread"
    unread.write_text("may be read, and was not yet")
    os.utime(unread, (1, 1 << 30))  # long ago: its reading is put down, where that is done at all
    with contextlib.suppress(OSError):  # a file system without extended attributes
        os.setxattr(readable, "user.bait", b"1")
    PIL.Image.new("RGB", (9, 9)).save(inner / "picture.png")
    np.save(inner / "array.npy", np.arange(9))
    credentials = [folder / "home" / name for name in CREDENTIALS]
    for path in credentials:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("key")
    return {
        "folder": str(inner), "secret": str(inner / "secret"), "picture": str(inner / "picture.png"),
        "array": str(inner / "array.npy"), "readable": str(readable), "unread": str(unread),
        "credentials": list(map(str, credentials)),
        "handle": handle_of(inner / "secret"), **installed(),
    }  # fmt: skip


@contextlib.contextmanager
def targets():
    """Files, sockets and a process that attacks aim at; yields their names and a check that they are whole.

    The files lie in the file system of level L0's calls: a link or a new name would reach from one to the other.
    """
    folder = pathlib.Path(tempfile.mkdtemp(prefix="arft-targets-", dir=scratch.choose_root()))
    files, (near_end, far_end) = lay_out(folder), os.openpty()
    victim = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(3600)"], start_new_session=True)
    listeners = [socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)]
    listeners[1].bind(str(folder / "outside" / "unix"))
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
        "port": listeners[0].getsockname()[1], "unix": listeners[1].getsockname(), "abstract": folder.name,
        "victim": victim.pid, "victim_group": victim.pid, "victim_memory": writable_memory(victim.pid),
        "trainer": os.getpid(), "terminal": os.ttyname(far_end), "scratch_root": scratch.choose_root(),
    }  # fmt: skip
    try:
        yield TARGETS | files | names, str(folder / "lib"), damage
    finally:
        victim.kill()
        victim.wait()
        os.close(near_end)
        os.close(far_end)
        for listener in listeners:
            listener.close()
        scratch.remove(str(folder))


def become(user):
    """Goes on as another user, with the interpreter and its packages still in reach where root's home holds them."""
    prefixes = {pathlib.Path(prefix) for prefix in (sys.base_prefix, sys.prefix) if prefix.startswith("/root/")}
    if prefixes:
        kernel.unshare(0x20000)
        kernel.mount(None, "/", None, 16384 | 1 << 18)
        fd = os.open("/root", os.O_PATH)
        kernel.mount("tmpfs", "/root", "tmpfs", 0, "mode=755")
        for prefix in sorted(prefixes):  # one may hold the other
            prefix.mkdir(parents=True, exist_ok=True)
            kernel.mount(f"/proc/self/fd/{fd}/{prefix.relative_to('/root')}", str(prefix), None, 4096 | 16384)
        os.close(fd)
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


def left_processes(before):
    """Pids below this process that were not there before. Needs :func:`confine.be_reaper`: orphans fall to us."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:  # adopted and dead
            pass
    return [f"process {pid}" for pid in canary.family(os.getpid()) if pid not in before]


def wait_for_none(left, seconds=5.0):
    """What is left when nothing is, or after some seconds: namespaces end a moment behind their holder."""
    deadline = time.monotonic() + seconds
    while (found := left()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def attempt(box, attack, names, planted, is_own):
    """(what the attack got, what it printed before the planted call; nothing unless it is made ``twice``)."""
    code, before = attack.code(names), ""
    if is_own:
        images, cells = {planted.of["name"]: planted.picture()}, [(planted.program(), 1)]
        return box.report(code, images, cells).observation, before
    if attack.is_twice:
        before = box.run(code, IMAGE).text
    if attack.is_planted:
        planted.plant(box)
    return box.run(code, IMAGE), before


def attack_all(box, chosen, names, damage, is_own):
    """Makes the attacks, each followed by an ordinary call; prints an outcome each.

    Before an attack on what an earlier call left, a call with canaries is made; one that is made ``twice`` must print
    the same before that call and behind it. With ``is_own`` the canaries are of the attack's own session, where it may
    find them: so it is seen that it can.
    """
    planted = canary.Canaries()
    names = names | {"hunt": planted.hunt()}
    expected = box.run(NEXT, IMAGE)
    assert expected.status == ToolStatus.OK, expected.text
    assert np.array_equal(expected.images[0].pixels, IMAGE.pixels)
    for attack in chosen:
        observation, before = attempt(box, attack, names, planted, is_own)
        faults = damage()
        if before and observation.text != before:
            faults.append(f"the call before shows: {before[:300]} / {observation.text[:300]}")
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
    confine.be_reaper()
    chosen = [a for a in attacks.read_all() if not config.get("names") or a.name in config["names"]]
    unknown = set(config.get("names", ())) - {attack.name for attack in chosen}
    if unknown:
        raise ValueError(f"no such attacks: {sorted(unknown)}")
    with targets() as (names, readable, damage):
        alive, descriptors = canary.family(os.getpid()), sorted(os.listdir("/proc/self/fd"))
        paths = [readable, *(names["packages"] if config.get("weak") == "readable" else ())]
        with PythonSandbox(1, TIMEOUT_S, MEMORY_MB, 1000, MAX_IMAGE_PX, config["level"], readable=paths) as box:
            print(json.dumps({"line": box.line, "level": box.level}), flush=True)
            chosen = [attack for attack in chosen if attack.level in ("", box.level)]
            attack_all(box, chosen, names, damage, config.get("own", False))
        left = wait_for_none(lambda: left_processes(alive)) + left_overs()
        if sorted(os.listdir("/proc/self/fd")) != descriptors:
            left.append("descriptors")
    print(json.dumps({"left": left}), flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    main()
