"""Runs tool calls side by side, so that a service that fails costs little time and no trajectory its score.

A call waits for one of its tool's threads, is recalled from a record where there is one, else tried a few
times, with pauses of random length between (full jitter: Brooker, "Exponential Backoff and Jitter", AWS
Architecture Blog, 2015). A breaker stops asking a back-end that fails; probes of its own, which no
trajectory waits for, find out when it is well again. An infrastructure failure is an INFRA observation.
"""

import concurrent.futures
import dataclasses
import random
import threading
import time
from collections.abc import Callable, Mapping

from arft_jax.io.redact import redact
from arft_jax.tools import clean
from arft_jax.tools.breaker import Breaker
from arft_jax.tools.call import Call, Cancelled, Fault
from arft_jax.tools.deadlines import CLOSED, Deadlines, resolve
from arft_jax.tools.prober import Prober
from arft_jax.tools.rate import Rate
from arft_jax.tools.record import CallPolicy, Work
from arft_jax.tools.tool_metrics import ToolMetrics
from arft_jax.trajectory import Observation, ToolStatus

# For logs only: the status says INFRA.
BREAKER_OPEN = "the back-end has failed too often and is left alone for now"
TOO_MANY = "too many calls are waiting"

_MAX_FAULT_CHARS = 500
_MAX_FAULT_READ = 50_000  # so many more that what is shown never ends in half a secret, which would not be known as one
_MAX_PAUSE_S = 5.0
_LOOK_S = 0.05  # between two looks at the breaker in a pause

Recall = Callable[[], Observation | None]


def fault(error: Exception | str) -> Observation:
    """An INFRA observation; secrets taken out of its text."""
    text = str(error) if isinstance(error, Fault | str) else f"{type(error).__name__}: {error}"
    text = text[:_MAX_FAULT_READ]
    return Observation(clean.clean_text(redact(f"tool fault: {text}"), _MAX_FAULT_CHARS), (), ToolStatus.INFRA)


class ToolQueue:
    """One tool: its threads, its breaker, its counts.

    Args:
      name: of threads and metrics.
      policy: how it is called.
      deadlines: shared by all tools; closed before this is.
    """

    def __init__(self, name: str, policy: CallPolicy, deadlines: Deadlines):
        self._policy, self._deadlines = policy, deadlines
        self._threads = concurrent.futures.ThreadPoolExecutor(policy.n_threads, thread_name_prefix=f"tool-{name}")
        self._breaker, self._rate, self._metrics = Breaker(), Rate(policy.calls_per_s), ToolMetrics()
        self._prober = Prober(f"tool-{name}-probe", self._breaker, policy.open_s, policy.try_s)
        self._lock, self._n_waiting = threading.Lock(), 0
        self._dice = random.Random()

    # ------------------------------------------------------------------ calls

    def submit(self, work: Work, recall: Recall | None, deadline_s: float) -> concurrent.futures.Future:
        """Starts a call; see ToolRunner.submit."""
        future: concurrent.futures.Future = concurrent.futures.Future()
        call, submitted = Call(min(deadline_s, self._policy.deadline_s)), time.monotonic()
        future.add_done_callback(lambda done: self._finish(done, call))
        if call.left_s <= 0:
            resolve(future, fault("the trajectory's time for tools is used up"))
            return future
        with self._lock:
            self._n_waiting += 1
            too_many = self._n_waiting > self._policy.max_waiting

        def serve() -> None:
            with self._lock:
                self._n_waiting -= 1
            if future.done():  # past its deadline in the queue: nobody waits for it
                return
            try:
                observation = self._observe(work, recall, call)
            except Cancelled:
                observation = fault("given up")  # the future is resolved already
            resolve(future, dataclasses.replace(observation, seconds=time.monotonic() - submitted))

        try:
            if too_many:
                raise Fault(TOO_MANY)
            if not self._deadlines.add(future, call.left_s):
                raise RuntimeError
            self._threads.submit(serve)
        except (Fault, RuntimeError) as error:  # RuntimeError: closed
            with self._lock:
                self._n_waiting -= 1
            resolve(future, fault(error) if isinstance(error, Fault) else Observation(CLOSED, (), ToolStatus.INFRA))
        return future

    def _finish(self, future: concurrent.futures.Future, call: Call) -> None:
        """Whoever resolved the future: work that still goes on for it is stopped."""
        call.cancel()
        if not future.cancelled():
            self._metrics.add(future.result())

    def _observe(self, work: Work, recall: Recall | None, call: Call) -> Observation:
        try:
            known = None if recall is None else recall()
        except Exception as error:
            return fault(error)
        if known is not None:
            self._metrics.count("cache_hits")
            return known
        return self._try_all(work, call)

    def _try_all(self, work: Work, call: Call) -> Observation:
        policy, observation = self._policy, None
        for n in range(1, policy.n_tries + 1):
            if not self._breaker.allows:
                self._prober.use(lambda probe: self._is_well(work, probe))
                self._metrics.count("refused_open")
                return observation or fault(BREAKER_OPEN)
            try:
                self._rate.wait(call)
            except Fault as error:
                return observation or fault(error)
            observation, retry, after_s = self._try_once(work, call)
            good = observation.status is not ToolStatus.INFRA
            self._record(good, work)
            pause_s = self._dice.uniform(0.0, min(policy.pause_s * 2 ** (n - 1), _MAX_PAUSE_S))
            pause_s = max(pause_s, after_s)
            if good or not retry or n == policy.n_tries or pause_s >= call.left_s:
                return observation
            self._pause(call, pause_s)
        raise AssertionError("unreachable: the last try returns")

    def _pause(self, call: Call, seconds: float) -> None:
        """Sleeps before another try; a breaker that opens meanwhile ends the sleep: there will be no other try."""
        ends = time.monotonic() + seconds
        while self._breaker.allows:
            left_s = ends - time.monotonic()
            if left_s <= 0:
                self._metrics.count("retries")
                return
            call.wait(min(left_s, _LOOK_S))

    def _try_once(self, work: Work, call: Call) -> tuple[Observation, bool, float]:
        """(observation, whether another try may help, seconds to wait before it)."""
        call.start_try(self._policy.try_s)
        try:
            return work(call), True, 0.0
        except Fault as error:
            return fault(error), error.retry, error.after_s
        except Cancelled:
            if call.overdue:  # not given up by its caller, nor by close
                self._record(False, work)
            raise
        except Exception as error:
            return fault(error), True, 0.0
        finally:
            call.end_try()

    def _record(self, good: bool, work: Work) -> None:
        if self._breaker.record(good):
            self._prober.start(lambda probe: self._is_well(work, probe))

    def _is_well(self, work: Work, probe: Call) -> bool:
        """Asks once more, for nobody: what comes back is thrown away."""
        try:
            self._rate.wait(probe)
            observation, _, _ = self._try_once(work, probe)
        except (Fault, Cancelled):
            return False
        return observation.status is not ToolStatus.INFRA

    # ---------------------------------------------------------------- figures

    def figures(self) -> dict[str, float]:
        """Counts since the start, ``breaker`` (0 closed, 0.5 half open, 1 open), ``breaker_opened`` times."""
        breaker = {"breaker": self._breaker.state.value, "breaker_opened": float(self._breaker.n_opened)}
        return self._metrics.figures() | breaker

    def close(self) -> None:
        """Ends the threads; the calls' futures are resolved before, which ends their work."""
        self._prober.close()
        self._threads.shutdown(wait=True, cancel_futures=True)


class ToolRunner:
    """Tools by name, side by side; no call ever raises.

    Args:
      policies: how each tool is called, by its name.
    """

    def __init__(self, policies: Mapping[str, CallPolicy]):
        self._deadlines = Deadlines()
        self._tools = {name: ToolQueue(name, its, self._deadlines) for name, its in policies.items()}

    def submit(
        self, tool: str, work: Work, recall: Recall | None = None, deadline_s: float = float("inf")
    ) -> "concurrent.futures.Future[Observation]":
        """Starts a call.

        Args:
          tool: its name.
          work: does the call, in another thread, perhaps several times; may raise Fault, or anything that then counts
            as an infrastructure failure. It should heed its Call: work that does not is waited for when the runner
            closes.
          recall: asked first, once, whatever the breaker says: what is known without the back-end, or None.
          deadline_s: where it is shorter than the tool's own.

        Returns:
          A future that always resolves to an observation, whose ``seconds`` count from here, unless its owner cancels
          it, which ends the work.
        """
        return self._tools[tool].submit(work, recall, deadline_s)

    def metrics(self) -> dict[str, float]:
        """Figures of every tool as ``tool/<name>/<figure>``: see ToolMetrics.figures and ToolQueue.figures."""
        return {f"tool/{name}/{key}": v for name, tool in self._tools.items() for key, v in tool.figures().items()}

    def close(self) -> None:
        """Resolves what is open as INFRA and ends the threads; safe to repeat."""
        self._deadlines.close()
        for tool in self._tools.values():
            tool.close()
