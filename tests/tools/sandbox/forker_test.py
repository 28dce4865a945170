"""What is forked for calls has nothing of what the worker saw, and is the worker's own child.

Each claim is tried in a process of its own with one thread, as a worker is: the one of the tests has others.
"""

import os
import signal
import subprocess
import sys

import pytest

from arft_jax.tools.sandbox import proc
from arft_jax.tools.sandbox.forker import Forker

SEEN = []


def tell(fds):
    """Writes what the worker had seen when the forker was made, its parent's number, and the open descriptors."""
    kinds = []
    for fd in range(3, 64):
        try:
            kinds.append(os.readlink(f"/proc/self/fd/{fd}").partition(":")[0])
        except OSError:
            pass
    os.write(fds[0], f"{SEEN} {os.getppid()} {sorted(kinds)}".encode())
    os._exit(7)


def stay(fds):
    os.read(fds[0], 1)
    os._exit(0)


def askers_child():
    forker = Forker({b"t": tell}, (), lambda: None)
    SEEN.append("a request")
    for _ in range(2):
        read, write = os.pipe()
        birth = forker.ask(b"t", [write])
        forker.settle()
        os.close(write)
        assert os.waitstatus_to_exitcode(os.waitpid(birth.pid, 0)[1]) == 7
        with open(read, "rb") as told:  # the channel of the forker, and what was passed on
            assert told.read().decode() == f"[] {os.getpid()} ['pipe', 'socket']"
    forker.close()


def told_apart():
    forker = Forker({b"s": stay}, (), lambda: None)
    read, write = os.pipe()
    births = [forker.ask(b"s", [read]) for _ in range(3)]
    assert [birth.pid for birth in births] == [0, 0, 0]
    forker.settle()
    pids = [birth.pid for birth in births]
    assert len(set(pids)) == 3 and {forker.pid, *pids} == set(proc.Proc().children())
    os.close(write)
    os.close(read)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0, 0]
    assert proc.Proc().children() == [forker.pid]
    forker.close()


def gone():
    forker = Forker({}, (), lambda: None)
    os.kill(forker.pid, signal.SIGKILL)
    with pytest.raises((EOFError, BrokenPipeError, ConnectionResetError)):
        forker.ask(b"t", [0])
        forker.settle()
    forker.close()


CLAIMS = {
    "a forked process is the asker's child and knows what the forker knew": askers_child,
    "processes that were asked for one after the other are told apart": told_apart,
    "a forker that is gone is said": gone,
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_in_a_process_of_its_own(claim):
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(path for path in sys.path if path))
    command = [sys.executable, "-B", __file__, claim]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "shown\n"), done.stderr[-2000:]


if __name__ == "__main__":
    CLAIMS[sys.argv[1]]()
    print("shown")
