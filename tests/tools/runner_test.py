"""The tool runner: tries, deadlines, limits, breaker, cancellation, figures."""

import gc
import random
import threading
import time
import weakref

import pytest

from arft_jax.tools import deadlines, runner
from arft_jax.tools.call import Fault
from arft_jax.tools.runner import CallPolicy, ToolRunner
from arft_jax.tools.tool_metrics import percentile
from arft_jax.trajectory import Observation, ToolStatus

QUICK = dict(n_threads=8, deadline_s=10.0, try_s=0.2, pause_s=0.02, open_s=0.1)


@pytest.fixture
def make():
    """Runners of one tool ``t``; after the test each is closed and no thread is left."""
    before, made = set(threading.enumerate()), []

    def start(**terms):
        made.append(ToolRunner({"t": CallPolicy(**QUICK | terms)}))
        return made[-1]

    yield start
    for each in made:
        each.close()
    assert set(threading.enumerate()) <= before


def figures(tool_runner):
    return {name.removeprefix("tool/t/"): value for name, value in tool_runner.metrics().items()}


class Work:
    """Does what its list of outcomes says, the last one for ever; remembers when it was called."""

    def __init__(self, *outcomes):
        self.outcomes, self.times, self.lock = list(outcomes), [], threading.Lock()

    def __call__(self, call):
        with self.lock:
            self.times.append(time.monotonic())
            outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def ok():
    return Observation("fine")


def hang(call):
    """Heeds its call, as a socket does."""
    call.wait(call.left_s)
    raise Fault("no reply in time")


# ------------------------------------------------------------------- tries


def test_a_fault_is_tried_again_and_leaves_no_trace(make):
    work = Work(Fault("one"), OSError("two"), ok())
    box = make()
    seen = box.submit("t", work).result(5)
    assert (seen.text, seen.status, len(work.times)) == ("fine", ToolStatus.OK, 3)
    assert figures(box)["retries"] == 2 and figures(box)["ok"] == 1 and figures(box)["infra"] == 0


def test_after_the_last_try_the_call_is_a_fault_of_ours(make):
    work = Work(Fault("status 503"))
    seen = make().submit("t", work).result(5)
    assert (seen.text, seen.status, len(work.times)) == ("tool fault: status 503", ToolStatus.INFRA, 3)


def test_an_infra_observation_is_tried_again_too(make):
    work = Work(Observation("worker died", (), ToolStatus.INFRA), ok())
    assert make().submit("t", work).result(5).status is ToolStatus.OK


@pytest.mark.parametrize("status", [ToolStatus.ERROR, ToolStatus.LIMIT, ToolStatus.OK])
def test_what_the_policy_did_is_tried_once_and_does_not_open_the_breaker(make, status):
    box, work = make(), Work(Observation("its own", (), status))
    assert {box.submit("t", work).result(5).status for _ in range(30)} == {status}
    assert len(work.times) == 30 and figures(box)[str(status)] == 30 and figures(box)["breaker"] == 0


def test_a_fault_that_no_try_can_mend_is_not_tried_again(make):
    work = Work(Fault("status 401", retry=False))
    assert make().submit("t", work).result(5).status is ToolStatus.INFRA and len(work.times) == 1


def test_pauses_are_drawn_from_zero_to_a_bound_that_doubles(make, monkeypatch):
    class Dice:
        asked = []

        def uniform(self, low, high):
            self.asked.append((low, high))
            return high / 2

    monkeypatch.setattr(random, "Random", Dice)
    box, work = make(pause_s=0.1, n_tries=4), Work(Fault("x"))
    box.submit("t", work).result(5)
    assert Dice.asked[:3] == [(0.0, 0.1), (0.0, 0.2), (0.0, 0.4)]
    pauses = [b - a for a, b in zip(work.times, work.times[1:], strict=False)]
    assert all(pause >= least for pause, least in zip(pauses, (0.05, 0.1, 0.2), strict=True))


def test_a_service_that_asks_for_a_pause_is_given_it_where_there_is_time(make):
    work = Work(Fault("busy", after_s=0.3), ok())
    assert make().submit("t", work).result(5).status is ToolStatus.OK
    assert work.times[1] - work.times[0] >= 0.3
    work, started = Work(Fault("busy", after_s=60.0), ok()), time.monotonic()
    seen = make().submit("t", work).result(5)
    assert seen.text == "tool fault: busy" and len(work.times) == 1 and time.monotonic() - started < 1


def test_secrets_do_not_reach_the_fault_text(make, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "very-secret-value")
    seen = make().submit("t", Work(ValueError("header very-secret-value refused\x1b[31m"))).result(5)
    assert seen.text == "tool fault: ValueError: header [redacted] refused"


# --------------------------------------------------------------- deadlines


def test_each_try_and_the_whole_call_have_their_own_time(make):
    started = time.monotonic()
    seen = make(try_s=0.1).submit("t", hang).result(5)
    assert seen.status is ToolStatus.INFRA and 0.3 <= time.monotonic() - started < 1.3
    assert 0.3 <= seen.seconds < 1.3
    started = time.monotonic()
    seen = make(try_s=60.0, deadline_s=0.2).submit("t", hang).result(5)
    assert seen.status is ToolStatus.INFRA and 0.15 <= time.monotonic() - started < 1.2


def test_a_trajectory_may_leave_a_call_less_time_or_none(make):
    box, started = make(try_s=60.0), time.monotonic()
    assert box.submit("t", hang, deadline_s=0.2).result(5).status is ToolStatus.INFRA
    assert time.monotonic() - started < 1.2
    work = Work(ok())
    late = box.submit("t", work, deadline_s=0.0)
    assert late.done() and "used up" in late.result().text and not work.times


def test_the_deadline_passes_for_work_that_heeds_nothing(make):
    release = threading.Event()
    box = make(deadline_s=0.2, n_threads=1)
    started = time.monotonic()
    seen = [box.submit("t", lambda call: release.wait(10) and ok()) for _ in range(3)]
    assert {future.result(5).text for future in seen} == {deadlines.DEADLINE_PASSED}
    assert 0.2 <= time.monotonic() - started < 1.2
    release.set()


def test_what_nobody_waits_for_is_not_begun(make):
    release, box, work = threading.Event(), make(n_threads=1), Work(ok())
    box.submit("t", lambda call: release.wait(10) and ok())
    queued = box.submit("t", work)
    assert queued.cancel()
    release.set()
    assert box.submit("t", lambda call: ok()).result(5).status is ToolStatus.OK and not work.times


# ------------------------------------------------------------------ limits


def test_no_more_calls_run_at_once_than_there_are_threads(make):
    running, most, lock = [0], [0], threading.Lock()

    def work(call):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.02)
        with lock:
            running[0] -= 1
        return ok()

    box = make(n_threads=3)
    for future in [box.submit("t", work) for _ in range(12)]:
        future.result(5)
    assert most[0] == 3


def test_tries_start_no_more_often_than_they_may(make):
    box, work = make(calls_per_s=20.0), Work(ok())
    for _ in range(20):
        box.submit("t", work).result(5)  # a second's worth at once
    started = time.monotonic()
    for future in [box.submit("t", work) for _ in range(10)]:
        future.result(5)
    assert 0.35 < time.monotonic() - started < 1.5


def test_a_call_whose_turn_comes_too_late_is_refused_at_once(make):
    box, work = make(calls_per_s=0.5, deadline_s=1.0), Work(ok())
    assert box.submit("t", work).result(5).status is ToolStatus.OK
    started = time.monotonic()
    seen = box.submit("t", work).result(5)
    assert "called too often" in seen.text and seen.status is ToolStatus.INFRA and time.monotonic() - started < 0.5


def test_more_calls_than_may_wait_are_refused_at_once(make):
    release, box = threading.Event(), make(n_threads=1, max_waiting=2)
    running = box.submit("t", lambda call: release.wait(10) and ok())
    time.sleep(0.05)
    waiting = [box.submit("t", Work(ok())) for _ in range(2)]
    refused = box.submit("t", Work(ok()))
    assert refused.done() and runner.TOO_MANY in refused.result().text
    release.set()
    assert {future.result(5).status for future in [running, *waiting]} == {ToolStatus.OK}
    assert box.submit("t", Work(ok())).result(5).status is ToolStatus.OK


# ----------------------------------------------------------------- breaker


class Service:
    """Ill or well; every call is counted."""

    def __init__(self):
        self.well, self.n_calls = False, 0

    def __call__(self, call):
        self.n_calls += 1
        if self.well:
            return ok()
        raise Fault("ill")


def settle(condition, seconds=5.0):
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it did not happen"
        time.sleep(0.01)


def test_an_ill_service_is_left_alone_until_it_is_well(make):
    service, box = Service(), make(n_tries=1)
    for _ in range(10):
        assert box.submit("t", service).result(5).text == "tool fault: ill"
    assert figures(box)["breaker"] > 0 and figures(box)["breaker_opened"] == 1
    n_before, started = service.n_calls, time.monotonic()
    for _ in range(100):
        assert box.submit("t", service).result(5).text == f"tool fault: {runner.BREAKER_OPEN}"
    n_probes = (time.monotonic() - started) / QUICK["open_s"] + 2
    assert service.n_calls - n_before <= n_probes, "calls went out"
    assert figures(box)["refused_open"] == 100 and figures(box)["infra"] == 110
    service.well = True
    settle(lambda: figures(box)["breaker"] == 0)
    assert box.submit("t", service).result(5).status is ToolStatus.OK
    assert not [t for t in threading.enumerate() if t.name == "tool-t-probe"]


def test_a_service_that_answers_every_second_probe_is_not_let_in(make):
    box, service = make(n_tries=1, open_s=0.02), Work(*[Fault("ill"), ok()] * 500)
    while figures(box)["breaker"] == 0:
        box.submit("t", service).result(5)
    time.sleep(0.5)
    assert figures(box)["breaker"] > 0 and figures(box)["breaker_opened"] == 1


def test_no_caller_waits_for_a_probe(make):
    box = make(try_s=1.0, open_s=0.05, n_tries=1)
    for _ in range(10):
        box.submit("t", Service()).result(5)
    box.submit("t", hang).result(5)  # refused; the next probe hangs for a second
    time.sleep(0.3)
    started = time.monotonic()
    assert runner.BREAKER_OPEN in box.submit("t", hang).result(5).text and time.monotonic() - started < 0.3


def test_a_call_that_fails_for_its_own_sake_does_not_keep_the_breaker_open(make):
    box, service = make(n_tries=1), Service()
    service.well = True
    for _ in range(10):
        box.submit("t", Work(Fault("status 400"))).result(5)
    assert figures(box)["breaker"] > 0
    box.submit("t", service).result(5)  # refused, and the probe from now on
    settle(lambda: figures(box)["breaker"] == 0)


def test_a_call_that_pauses_when_the_breaker_opens_pauses_no_longer(make):
    box = make(pause_s=4.0, n_tries=2, n_threads=16)
    started = time.monotonic()
    futures = [box.submit("t", Work(Fault("ill", after_s=4.0))) for _ in range(9)]
    time.sleep(0.2)
    futures.append(box.submit("t", Work(Fault("ill", after_s=4.0))))
    assert {future.result(5).text for future in futures} == {"tool fault: ill"}
    assert time.monotonic() - started < 2


def test_what_is_recalled_needs_no_back_end(make):
    box, service = make(n_tries=1), Service()
    for _ in range(10):
        box.submit("t", service).result(5)
    known = box.submit("t", service, recall=lambda: Observation("recorded")).result(5)
    assert (known.text, known.status, figures(box)["cache_hits"]) == ("recorded", ToolStatus.OK, 1)
    assert runner.BREAKER_OPEN in box.submit("t", service, recall=lambda: None).result(5).text

    def fail():
        raise Fault("nothing is recorded")

    assert box.submit("t", service, recall=fail).result(5).text == "tool fault: nothing is recorded"


def test_one_tools_outage_is_not_the_others():
    terms = CallPolicy(**QUICK | dict(n_tries=1))
    box = ToolRunner({"a": terms, "b": terms})
    for _ in range(10):
        box.submit("a", Service()).result(5)
    assert runner.BREAKER_OPEN in box.submit("a", Work(ok())).result(5).text
    assert box.submit("b", Work(ok())).result(5).status is ToolStatus.OK
    box.close()


# ------------------------------------------------------------ cancellation


def test_a_cancelled_call_frees_its_thread_and_accuses_nobody(make):
    box = make(n_threads=1, try_s=60.0, deadline_s=60.0)
    for _ in range(12):
        future = box.submit("t", hang)
        time.sleep(0.02)
        assert future.cancel()
    started = time.monotonic()
    assert box.submit("t", Work(ok())).result(5).status is ToolStatus.OK and time.monotonic() - started < 1
    assert figures(box)["breaker"] == 0 and figures(box)["calls"] == 1


def test_calls_that_meet_their_deadline_open_the_breaker(make):
    box = make(n_threads=16, try_s=60.0, deadline_s=0.2)
    for future in [box.submit("t", hang) for _ in range(12)]:
        assert future.result(5).status is ToolStatus.INFRA
    settle(lambda: figures(box)["breaker"] > 0)


def test_close_ends_calls_pauses_and_probes_at_once_and_every_thread():
    before = set(threading.enumerate())
    terms = dict(QUICK, try_s=60.0, deadline_s=60.0, n_threads=2)
    box = ToolRunner({"t": CallPolicy(**terms), "p": CallPolicy(**terms | dict(open_s=0.01, n_tries=1))})
    for _ in range(10):
        box.submit("p", Service()).result(5)
    box.submit("p", hang).result(5)  # probes hang from here on
    time.sleep(0.1)
    futures = [box.submit("t", hang) for _ in range(4)]
    futures += [box.submit("t", Work(Fault("x", after_s=50.0)))]
    time.sleep(0.05)
    started = time.monotonic()
    box.close()
    assert time.monotonic() - started < 1
    assert {future.result(0).text for future in futures} == {deadlines.CLOSED}
    assert set(threading.enumerate()) <= before
    box.close()
    assert box.submit("t", hang).result(0).text == deadlines.CLOSED


def test_results_that_nobody_holds_are_not_held_by_their_deadline(make):
    class Big(str):
        pass

    made, box = [], make()

    def work(call):
        text = Big("x")
        made.append(weakref.ref(text))
        return Observation(text)

    box.submit("t", work).result(5)
    box.submit("t", Work(ok())).result(5)
    time.sleep(0.05)
    gc.collect()
    assert made[0]() is None


# ----------------------------------------------------------------- figures


def test_every_outcome_is_counted_and_timed(make):
    box = make()
    outcomes = [ok(), Observation("", (), ToolStatus.ERROR), Observation("", (), ToolStatus.LIMIT)]
    for outcome in [*outcomes, Fault("x", retry=False), ok()]:
        box.submit("t", Work(outcome)).result(5)

    def slow(call):
        time.sleep(0.1)
        return ok()

    box.submit("t", slow).result(5)
    seen = figures(box)
    counted = {name: seen[name] for name in ("calls", "ok", "error", "limit", "infra")}
    assert counted == {"calls": 6, "ok": 3, "error": 1, "limit": 1, "infra": 1}
    assert seen["p50_s"] < 0.1 <= seen["p99_s"]
    assert all(type(value) is float for value in box.metrics().values())


def test_percentiles_are_by_nearest_rank():
    ordered = [float(n) for n in range(1, 101)]
    assert (percentile(ordered, 0.5), percentile(ordered, 0.99)) == (50.0, 99.0)
    assert (
        percentile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.0 and percentile([7.0], 0.99) == 7.0 and percentile([], 0.5) == 0.0
    )


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("n_threads", 0, "at least 1: got 0"),
        ("n_tries", 0, "at least 1: got 0"),
        ("max_waiting", 0, "at least 1: got 0"),
        ("deadline_s", 0.0, "above 0: got 0.0"),
        ("try_s", float("nan"), "above 0: got nan"),
        ("open_s", 0.0, "above 0: got 0.0"),
        ("pause_s", -1.0, "at least 0: got -1.0"),
        ("calls_per_s", -1.0, "at least 0: got -1.0"),
    ],
)
def test_numbers_below_their_minimum_are_named(name, value, text):
    with pytest.raises(ValueError, match=f"{name} must be {text}"):
        CallPolicy(**{name: value})
