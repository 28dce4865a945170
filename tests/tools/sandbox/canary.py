"""Canaries: random text that one call is given in every way there is, and that no later call may find.

A call is given one in its source, an earlier cell, an image's name and pixels; it prints two and returns one as an
image. All begin with one random prefix, so that one search finds any of them. A program that hunts for them
(attacks_neighbours.py) must not find its own copy: it gets the prefix masked and the rest as hashes alone.
"""

import contextlib
import hashlib
import os
import pathlib
import secrets
import string

import numpy as np

from arft_jax.trajectory import Image, ToolStatus

KINDS = ("source", "cell", "name", "pixels", "printed", "error", "output")
_PREFIX_CHARS, _CHARS = 16, 32
_STEP_BYTES = 96  # from one copy among the pixels to the next: a multiple of three
_MASK = 0x5A
_WINDOW_BYTES = 4 << 20
_IN_MEMORY = 0b11 << 62  # of an entry of /proc/PID/pagemap: the page is there, or swapped
_SECCOMP_FILTER = "2"

# What the planted call leaves behind besides: flags of its standard input, numbers of threads, a mode, a timer.
_LEAVE = """
import fcntl, os, signal, sys, threading
import numpy as np
def unmask(text): return bytes(byte ^ 90 for byte in bytes.fromhex(text)).decode()
try: fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) ^ (os.O_NONBLOCK | os.O_APPEND))
except OSError: pass
os.umask(0)
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
signal.setitimer(signal.ITIMER_REAL, 50)
for _ in range(20): threading.Thread(target=int).start()
np.random.seed(5); np.seterr(all='ignore')
"""


def _random(n_chars: int) -> str:
    return "".join(secrets.choice(string.ascii_letters) for _ in range(n_chars))


def _masked(text: str) -> str:
    return bytes(byte ^ _MASK for byte in text.encode()).hex()


def _tiled(text: str, height: int, width: int) -> np.ndarray:
    """uint8[height, width, 3] pixels with the text in them again and again."""
    n_bytes = 3 * height * width
    tile = text.encode().ljust(_STEP_BYTES, b"\0")
    return np.frombuffer((tile * (n_bytes // _STEP_BYTES + 1))[:n_bytes], np.uint8).reshape(height, width, 3)


def _wide(text: bytes) -> bytes:
    """Pixels as Pillow keeps them: a byte of 255 behind each three."""
    return b"\xff".join(text[i : i + 3] for i in range(0, len(text), 3))


class Canaries:
    """Fresh canaries, one of each kind."""

    def __init__(self):
        self.prefix = _random(_PREFIX_CHARS)
        self.of = {kind: self.prefix + _random(_CHARS - _PREFIX_CHARS) for kind in KINDS}

    def hunt(self) -> dict:
        """What a program needs to know one of them when it meets it, without holding it."""
        kinds = {hashlib.sha256(text.encode()).hexdigest(): kind for kind, text in self.of.items()}
        return {"prefix": _masked(self.prefix), "kinds": kinds}

    def needles(self) -> dict[str, bytes]:
        """What no other process may hold, for :func:`scan`: the text, and as pixels that have a fourth channel."""
        text = self.prefix.encode()
        return {"a canary": text, "a canary with a fourth channel": _wide(text)}

    def picture(self, height: int = 60, width: int = 84) -> Image:
        """An image with the canary of the pixels all over it."""
        return Image(_tiled(self.of["pixels"], height, width))

    def cells(self) -> list[tuple[str, int]]:
        """An accepted cell of the same session, with its number of images."""
        return [(f"kept = '{self.of['cell']}'", 1)]

    def program(self) -> str:
        """The planted call's code. What it prints and returns is masked in it, and so is not found in it."""
        printed, error, output = (_masked(self.of[kind]) for kind in ("printed", "error", "output"))
        return (
            f"# {self.of['source']}\n{_LEAVE}\nmine = '{self.of['source']}'\n"
            f"print(unmask('{printed}'))\nprint(unmask('{error}'), file=sys.stderr)\n"
            f"tile = np.frombuffer(unmask('{output}').encode().ljust({_STEP_BYTES}, b'\\0'), np.uint8)\n"
            "show(np.tile(tile, 64).reshape(64, 32, 3))\n"
        )

    def plant(self, box) -> None:
        """Makes the planted call.

        Raises:
          AssertionError: it came out otherwise than it must.
        """
        seen = box.report(self.program(), {self.of["name"]: self.picture()}, self.cells()).observation
        assert seen.status == ToolStatus.OK, seen.text
        assert seen.text.split() == [self.of["printed"], self.of["error"]], seen.text
        assert np.array_equal(seen.images[0].pixels, _tiled(self.of["output"], 64, 32))


def family(pid: int) -> list[str]:
    """Pids, as text, of a process and of all below it; what ends meanwhile is left out."""
    found = [str(pid)]
    for pid in found:
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as f:
                    found += f.read().split()
    return [pid for pid in found if os.path.exists(f"/proc/{pid}/statm")]


def _regions(pid: int) -> list[tuple[int, int, str]]:
    """(first address, last, name) of what a process has mapped and a call could have written to.

    Files that are mapped for themselves alone and only to be read are the libraries.
    """
    found = []
    for line in pathlib.Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace").splitlines():
        span, rights, _, _, inode, *name = line.split(None, 5)
        is_library = inode != "0" and rights[1] == "-" and rights[3] == "p"
        if rights[0] == "r" and not is_library and not (name and name[0].startswith("[v")):  # [vvar], [vsyscall]
            first, last = (int(address, 16) for address in span.split("-"))
            found.append((first, last, name[0] if name else "memory"))
    return found


def _pieces(pid: int, first: int, last: int) -> list[tuple[int, int]]:
    """Spans of a region whose pages exist: reading the others would make them."""
    page = os.sysconf("SC_PAGESIZE")
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as f:
        f.seek(first // page * 8)
        data = f.read((last - first) // page * 8)
    entries = np.frombuffer(data[: len(data) // 8 * 8], np.uint64)
    exists = np.concatenate(([False], entries & np.uint64(_IN_MEMORY) != 0, [False]))
    edges = np.flatnonzero(exists[1:] != exists[:-1])
    return [(first + int(a) * page, first + int(b) * page) for a, b in edges.reshape(-1, 2)]


def _search(pid: int, needles: dict[str, bytes]) -> tuple[int, set[str]]:
    """(bytes read, faults) of one process. Raises OSError where it may not be read, or is gone."""
    n_bytes, faults = 0, set()
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for first, last, name in _regions(pid):
            for start, end in _pieces(pid, first, last):
                for at in range(start, end, _WINDOW_BYTES):
                    with contextlib.suppress(OSError):  # unmapped since
                        data = os.pread(memory.fileno(), min(_WINDOW_BYTES + _CHARS, end - at), at)
                        n_bytes += len(data)
                        faults |= {f"{kind} in process {pid}, {name}" for kind, text in needles.items() if text in data}
    return n_bytes, faults


def scan(pids: list[int], needles: dict[str, bytes]) -> list[str]:
    """Searches the memory of processes.

    Args:
      pids: processes; those that may not be read are left out.
      needles: kind: bytes that must be nowhere.

    Returns:
      Where something was found.

    Raises:
      AssertionError: nothing at all could be read.
    """
    n_bytes, faults = 0, set()
    for pid in pids:
        with contextlib.suppress(PermissionError, ProcessLookupError, FileNotFoundError):
            more, found = _search(pid, needles)
            n_bytes, faults = n_bytes + more, faults | found
    assert n_bytes > 0, f"no memory could be read of the processes {pids}"
    return sorted(faults)


def is_filtered(pid: int) -> bool:
    """Whether a process is held by a filter of system calls; raises OSError where it is gone."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return next(line.split()[1] for line in status.splitlines() if line.startswith("Seccomp:")) == _SECCOMP_FILTER


def _is_decoder(pid: int) -> bool:
    """Whether a process is held by a filter and leads no session of its own, as every child of a call does."""
    session = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[3]
    return is_filtered(pid) and session != str(pid)


def inheritable(box) -> list[int]:
    """Processes of an idle sandbox from which a call could inherit: all but the workers themselves and the decoders.

    At level L1 the worker is the first child of the process that the sandbox started, which only waits for it.
    """
    found = []
    for worker in list(box.workers):
        top = worker.process.pid
        below = [int(pid) for pid in family(top)]
        servers = below[: 2 if box.level == "L1" else 1]
        for pid in below[len(servers) :]:
            with contextlib.suppress(OSError):
                if not _is_decoder(pid):
                    found.append(pid)
    return found
