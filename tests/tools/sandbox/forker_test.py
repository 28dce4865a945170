"""What is forked for calls has nothing of what the worker saw, and is the worker's own child."""

import os
import signal

import pytest

from arft_jax.tools.sandbox import proc
from arft_jax.tools.sandbox.forker import Forker

SEEN = []


def tell(fds):
    """Writes what the worker had seen when the forker was made, its parent's number, and the open descriptors."""
    open_now = []
    for fd in range(3, 64):
        try:
            os.fstat(fd)
            open_now.append(fd)
        except OSError:
            pass
    kinds = [os.readlink(f"/proc/self/fd/{fd}").partition(":")[0] for fd in open_now]
    os.write(fds[0], f"{SEEN} {os.getppid()} {sorted(kinds)}".encode())
    os._exit(7)


def stay(fds):
    os.read(fds[0], 1)
    os._exit(0)


@pytest.fixture
def forker():
    made = Forker({b"t": tell, b"s": stay}, (), lambda: None)
    yield made
    made.close()
    SEEN.clear()


def ask(forker, service, fds):
    birth = forker.ask(service, fds)
    forker.settle()
    return birth.pid


def test_a_forked_process_is_the_askers_child_and_knows_what_the_forker_knew(forker):
    SEEN.append("a request")
    for _ in range(2):
        read, write = os.pipe()
        pid = ask(forker, b"t", [write])
        os.close(write)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        with open(read, "rb") as told:  # the channel of the forker, and what was passed on
            assert told.read().decode() == f"[] {os.getpid()} ['pipe', 'socket']"


def test_processes_that_were_asked_for_one_after_the_other_are_told_apart(forker):
    read, write = os.pipe()
    births = [forker.ask(b"s", [read]) for _ in range(3)]
    assert [birth.pid for birth in births] == [0, 0, 0]
    forker.settle()
    pids = [birth.pid for birth in births]
    assert len(set(pids)) == 3 and set(pids) <= set(proc.Proc().children())
    os.close(write)
    os.close(read)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0, 0]
    assert not set(pids) & set(proc.Proc().children())


def test_a_forker_that_is_gone_is_said():
    forker = Forker({}, (), lambda: None)
    os.kill(forker.pid, signal.SIGKILL)
    with pytest.raises((EOFError, BrokenPipeError, ConnectionResetError)):
        forker.ask(b"t", [0])
        forker.settle()
    forker.close()
