"""A call that nobody waits for any more ends at once: its code, its thread, and no other call's."""

import concurrent.futures
import pathlib
import threading
import time

import numpy as np
import pytest

from arft_jax.testing.toolboxes import code_call, context_of, make_toolbox
from arft_jax.tools.call import Call, Cancelled
from arft_jax.tools.runner import CallPolicy
from arft_jax.tools.sandbox import PythonSandbox
from arft_jax.trajectory import Image, Task, ToolStatus

IMAGE = Image(np.zeros((8, 8, 3), np.uint8))
TASK = Task("t", "coding", "?", (IMAGE,), ("a",))
SLEEP = code_call("import time\ntime.sleep(25)\nprint('late')")
FINE = code_call("print(6 * 7)")


def processes_below(pid):
    """Pids of all processes below one."""
    below = map(int, pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return {process for child in below for process in (child, *processes_below(child))}


def end_within(seconds, condition):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def runs(pid):
    """Not where it is dead and whoever is its parent now has not heard of it yet."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return False


def gone(pids):
    return not any(map(runs, pids))


@pytest.fixture(scope="module", params=["auto", "L0"])
def sandbox(request):
    with PythonSandbox(n_workers=1, timeout_s=30.0, level=request.param) as box:
        yield box


def worker_at_work(sandbox):
    """The worker, once it has been given the call."""
    assert end_within(20, lambda: not sandbox.n_idle)
    time.sleep(0.3)
    (worker,) = sandbox.workers
    return worker


def warm(sandbox):
    assert sandbox.run("print(1)", IMAGE).text == "1"


def test_code_whose_call_is_given_up_is_gone_within_a_second(sandbox):
    warm(sandbox)
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        call = Call(60.0)
        future = threads.submit(sandbox.run, SLEEP.request, IMAGE, call)
        pids = processes_below(worker_at_work(sandbox).process.pid)
        assert pids
        started = time.monotonic()
        call.cancel()
        with pytest.raises(Cancelled):
            future.result(timeout=10)
        assert end_within(1.0 - (time.monotonic() - started), lambda: gone(pids))
    assert sandbox.run("print(5)", IMAGE).text == "5"


def test_a_call_that_waits_for_a_worker_is_given_up_without_one(sandbox):
    warm(sandbox)
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        running = threads.submit(sandbox.run, "import time\ntime.sleep(1.5)\nprint('done')", IMAGE)
        worker = worker_at_work(sandbox)
        call = Call(60.0)
        waiting = threads.submit(sandbox.run, "print(1)", IMAGE, call)
        time.sleep(0.1)
        call.cancel()
        with pytest.raises(Cancelled):
            waiting.result(timeout=10)
        assert running.result(timeout=20).text == "done"
        assert sandbox.workers == {worker}


def test_a_call_given_up_is_not_tried_again(sandbox):
    warm(sandbox)
    with make_toolbox(sandbox, None, deadline_s=0.8) as box:
        seen = box.submit(SLEEP, context_of(TASK, (IMAGE,))).result(timeout=10)
        assert seen.status == ToolStatus.INFRA
        assert end_within(10, lambda: sandbox.n_idle)
        assert not sandbox.workers  # the one that ran it; a second try would have started another


def test_close_does_not_wait_for_code(sandbox):
    warm(sandbox)
    before = threading.active_count()
    box = make_toolbox(sandbox, None, n_threads=3)
    futures = [box.submit(SLEEP, context_of(TASK, (IMAGE,))) for _ in range(5)]
    pids = processes_below(worker_at_work(sandbox).process.pid)
    started = time.monotonic()
    box.close()
    assert time.monotonic() - started < 5  # the code sleeps for 25
    assert {future.result(timeout=0).status for future in futures} == {ToolStatus.INFRA}
    assert end_within(1.0, lambda: gone(pids))
    assert threading.active_count() == before


def test_calls_that_run_out_of_time_do_not_count_as_faults_of_the_sandbox(sandbox):
    warm(sandbox)
    terms = {"python": CallPolicy(n_threads=12, n_tries=1)}
    with make_toolbox(sandbox, None, policies=terms, trajectory_deadline_s=1.0) as box:
        late = [box.submit(SLEEP, context_of(TASK, (IMAGE,), spent_s=0.5)) for _ in range(12)]
        assert {future.result(timeout=20).status for future in late} == {ToolStatus.INFRA}
        assert end_within(20, lambda: box.metrics()["tool/python/calls"] == 12)
        time.sleep(0.3)
        assert box.metrics()["tool/python/breaker"] == 0.0
