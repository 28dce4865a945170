"""A judge behind a chat completions server: asked in the background, each prompt once, its scores kept in a file.

The file has a line for each score: ``key`` (a hash of model, fields and prompt) and ``score``. What stands there is not
asked for again, in whatever session; a request that fails leaves nothing there, so that it is tried again.
"""

import asyncio
import concurrent.futures
import contextlib
import hashlib
import json
import pathlib
import threading

from arft_jax.remote import log
from arft_jax.remote.client import BudgetSpent, ChatClient, Hopeless, Server
from arft_jax.remote.costs import Meter
from arft_jax.remote.faults import Refused, Unanswered
from arft_jax.rewards.judge import JudgeFailure, score_of

SCORES = "scores"  # file of the scores, with the number of the process where there are several
_ASKED = {"judge": True}  # in the lines of the log
_N_READINGS = 2  # how often a judge is asked whose reply has no score


class RemoteJudge:
    """Scores prompts by one model's word; begun from one thread, asked in another; closed at the end.

    Args:
      server: whom to ask.
      meter: takes the costs, earlier ones of the folder included, and has the budget.
      folder: of the scores and of the log of requests; made at the first question.
      concurrency: prompts that are asked at once.
      process: of several that share the folder; None: the only one.
    """

    def __init__(
        self, server: Server, meter: Meter, folder: pathlib.Path, concurrency: int = 16, process: int | None = None
    ):
        self._server, self._meter, self._folder, self._process = server, meter, folder, process
        self._asked: dict[str, concurrent.futures.Future] = {}
        self._scores: dict[str, float] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._slots = asyncio.Semaphore(concurrency)
        self._connection = contextlib.AsyncExitStack()

    def check(self) -> None:
        """Asks whether the server is there, takes the key and has the model; writes nothing.

        Raises:
          ValueError: one of these is not so; one sentence with the key to change.
        """
        client = ChatClient(self._server, Meter({}), None)

        async def check() -> None:
            async with client.connected():
                await client.check()

        asyncio.run(check())

    def begin(self, prompt: str) -> None:
        """Starts to ask, unless this prompt is known or under way."""
        if self._loop is None:
            self._open()
        key = self._key(prompt)
        if key not in self._scores and key not in self._asked:
            self._asked[key] = asyncio.run_coroutine_threadsafe(self._ask(key, prompt), self._loop)

    def score(self, prompt: str) -> float:
        """In [0, 1]; waits for it.

        Raises:
          JudgeFailure: the server gave none; the next call asks again.
        """
        self.begin(prompt)
        key = self._key(prompt)
        if (asked := self._asked.get(key)) is not None:
            try:
                self._scores[key] = asked.result()
            except BudgetSpent:
                raise JudgeFailure(f"the budget of the judge, {self._meter.budget}, is spent") from None
            except (Refused, Unanswered, Hopeless, OSError) as error:
                raise JudgeFailure(f"the judge gave no score: {error}") from None
            finally:
                del self._asked[key]
        return self._scores[key]

    def close(self) -> None:
        """Ends what is still asked, the connection and the files; without a question there are none."""
        if self._loop is None:
            return
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._loop = None
        self._file.close()
        self._requests.close()

    async def _end(self) -> None:
        mine = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if task is not mine]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._connection.aclose()

    def totals(self) -> dict[str, dict]:
        """What was spent, by model; see :meth:`Meter.totals`."""
        return self._meter.totals()

    def _key(self, prompt: str) -> str:
        told = [self._server.model, dict(self._server.fields), prompt]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def _open(self) -> None:
        self._requests = log.RequestLog(self._folder, self._process)
        for path in sorted(self._folder.glob(f"{SCORES}*.jsonl")):
            self._scores |= _read(path)
        name = SCORES if self._process is None else f"{SCORES}.{self._process}"
        path = self._folder / f"{name}.jsonl"
        log.drop_cut_line(path)
        self._file = open(path, "a", encoding="utf-8")
        self._client, loop = ChatClient(self._server, self._meter, self._requests), asyncio.new_event_loop()
        self._thread = threading.Thread(target=loop.run_forever, name="judge", daemon=True)
        self._thread.start()
        connected = self._connection.enter_async_context(self._client.connected())
        asyncio.run_coroutine_threadsafe(connected, loop).result()
        self._loop = loop

    async def _ask(self, key: str, prompt: str) -> float:
        async with self._slots:
            for reading in range(1, _N_READINGS + 1):
                reply = await self._client.complete([{"role": "user", "content": prompt}], _ASKED)
                try:
                    score = score_of(reply.text)
                    break
                except JudgeFailure:
                    if reading == _N_READINGS:
                        raise
            self._file.write(json.dumps({"key": key, "score": score}) + "\n")
            self._file.flush()
            return score


def _read(path: pathlib.Path) -> dict[str, float]:
    """The scores of a file; a line that is none, as one that a kill cut short, is passed over: it is asked again."""
    found = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
            if 0.0 <= record["score"] <= 1.0:
                found[str(record["key"])] = float(record["score"])
        except (ValueError, KeyError, TypeError):
            continue
    return found
