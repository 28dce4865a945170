"""Asks a chat completions server through the ``openai`` package: one mechanism of retries, a pace, a log, a budget.

The package's own retries are off. What can be tried again is: connections that fail or end early, time-outs, statuses
408, 409, 425, 429 and 5xx, replies that are no JSON or hold no choice. Waits double, with jitter; a Retry-After of the
server is kept, and keeps the other requests waiting too. The key is in no error, log or reply: what a server says is
searched for it.
"""

import asyncio
import contextlib
import dataclasses
import datetime
import json
import logging
import random
import time
import urllib.parse
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

import openai

from arft_jax.io.redact import REDACTED, redact
from arft_jax.remote import log
from arft_jax.remote.costs import Meter, Usage, usage_of
from arft_jax.remote.faults import Meaning, Refused, Unanswered, error_in, meaning_of, one_line, retry_after_s
from arft_jax.remote.log import Outcome, RequestLog
from arft_jax.remote.pace import Pace
from arft_jax.remote.replies import BadReply, Reply, encodable, reply_of

MAX_REPLY_BYTES = 16 << 20
LONGEST_WAIT_S = 3600.0  # a server that asks for more is not waited for
MAX_REFUSED = 5  # requests that are refused for an unknown reason before any is answered: more are not sent
_KEYS = {  # of fields that a server may refuse, within Server.keys
    "max_tokens": "max_tokens_name",
    "max_completion_tokens": "max_tokens_name",
    "temperature": "temperature",
    "'stop'": "stops",
}
# What these say below a warning holds messages, images and headers of responses.
_LOGGERS = ("openai", "httpx", "httpcore", "httpx2", "httpcore2")
_NO_KEY = "none"  # the package asks for a key where the server does not
Message = Mapping[str, Any]


class BudgetSpent(Exception):
    """The budget is used up: nothing more is sent."""


class Hopeless(ValueError):
    """The server would answer every request so; one sentence with the key to change."""


@dataclasses.dataclass(frozen=True)
class Server:
    """Whom to ask, and how; see config.openai and config.rewards.judge.

    Args:
      base_url: without ``/chat/completions``.
      model: as the server knows it.
      key: empty: the server takes none.
      key_env: where the key comes from, for messages.
      fields: of every request, beside model and messages.
      timeout_s: of one request, from sending it to the last byte of its reply.
      n_tries: of one request.
      backoff_s, max_backoff_s: waits between them.
      requests_per_min, tokens_per_min: 0: no limit.
      keys: the group of the configuration that says so, for messages.
    """

    base_url: str
    model: str
    key: str = dataclasses.field(default="", repr=False)
    key_env: str = ""
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    timeout_s: float = 300.0
    n_tries: int = 6
    backoff_s: float = 1.0
    max_backoff_s: float = 60.0
    requests_per_min: float = 0.0
    tokens_per_min: float = 0.0
    keys: str = "config.openai"


def fields_of(
    extra: Iterable[tuple[str, Any]], temperature: float, max_tokens_name: str, max_tokens: int
) -> dict[str, Any]:
    """What every request of a server has beside model and messages.

    Args:
      extra: more fields, as the configuration has them.
      temperature: below 0: not sent.
      max_tokens_name: as the server calls the limit; empty: not sent.
      max_tokens: of a reply; 0: not sent.
    """
    fields = json.loads(json.dumps(dict(extra)))
    if temperature >= 0:
        fields["temperature"] = temperature
    if max_tokens_name and max_tokens:
        fields[max_tokens_name] = max_tokens
    return fields


@dataclasses.dataclass
class _Try:
    """How one request ended, as far as is known."""

    status: int | None = None
    outcome: Outcome = Outcome.LOST
    error: str = ""
    usage: Usage | None = None
    request_id: str | None = None
    again: bool = False
    wait_s: float | None = None  # that the server asks for
    meaning: Meaning | None = None
    reply: Reply | None = None


class ChatClient:
    """Asks one model; keeps pace, costs and log over several event loops.

    Args:
      server: whom.
      meter: takes what every request costs, and has the budget.
      requests: takes a line for every request; None: none is sent but that of :meth:`check`.
    """

    def __init__(self, server: Server, meter: Meter, requests: RequestLog | None):
        self.server, self._meter, self._requests = server, meter, requests
        self._pace = Pace(server.requests_per_min, server.tokens_per_min)
        self._api: openai.AsyncOpenAI | None = None
        self._n_replies = self._n_image_replies = self._n_refused = 0

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Connections of the event loop that is running; everything is asked inside."""
        for name in _LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)
        s = self.server
        options = dict(base_url=s.base_url, timeout=s.timeout_s, max_retries=0)
        async with openai.AsyncOpenAI(api_key=s.key or _NO_KEY, **options) as self._api:
            yield
        self._api = None

    async def check(self) -> None:
        """Asks which models there are, where the server says so.

        Raises:
          Hopeless: no server, a key that it does not take, no such model.
        """
        s = self.server
        try:
            async with asyncio.timeout(min(s.timeout_s, 60.0)):
                listed = await self._api.models.list()
            names = [model.id for model in listed.data or ()]
        except (openai.APIConnectionError, TimeoutError) as error:
            late = isinstance(error, (TimeoutError, openai.APITimeoutError))
            got = "nothing in time" if late else self._hide(_cause(error))
            raise Hopeless(f"a server must answer: got {got} from {s.base_url} ({s.keys}.base_url)") from None
        except openai.APIStatusError as error:
            if error.status_code in (401, 403):
                raise Hopeless(
                    self._sentence(error.status_code, self._hide(error_in(self._hidden(error.body))[1]))
                ) from None
            return
        except Exception:  # not every server has a list of models, and what it sends instead may be anything
            return
        if names and s.model not in names and not await self._has_model():
            shown = ", ".join(map(str, names[:10])) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
            raise Hopeless(
                f"model must be one that the server has: got {s.model!r}, {s.base_url} has {self._hide(shown)} "
                f"({s.keys}.model)"
            )

    async def _has_model(self) -> bool:
        """Whether the server knows the model though it does not list it, as that of an alias."""
        try:
            async with asyncio.timeout(min(self.server.timeout_s, 60.0)):
                return bool((await self._api.models.retrieve(self.server.model)).id)
        except Exception:  # it has said so, in whatever form
            return False

    async def complete(self, messages: Sequence[Message], asked: Mapping[str, Any]) -> Reply:
        """One turn.

        Args:
          messages: of the conversation so far.
          asked: what the lines of the log say of it: benchmark, item, question_id, turn.

        Raises:
          Refused, Unanswered, BudgetSpent, Hopeless: there is none.
        """
        shows = any(isinstance(m["content"], list) and any("image_url" in p for p in m["content"]) for m in messages)
        for number in range(1, self.server.n_tries + 1):
            if self._meter.is_spent:
                raise BudgetSpent
            guess = await self._pace.turn()
            if self._meter.is_spent:  # while it waited
                raise BudgetSpent
            ended = await self._try(messages, asked | {"try": number})
            self._pace.took(guess, ended.usage.total if ended.usage else None)
            if ended.reply is not None:
                self._n_replies += 1
                self._n_image_replies += shows
                return ended.reply
            if not ended.again:
                self._raise(ended, shows)
            if (ended.wait_s or 0.0) > LONGEST_WAIT_S:
                raise Unanswered(f"{ended.error}; the server asks to wait {ended.wait_s:.0f} s")
            if ended.wait_s is not None:
                self._pace.pause(ended.wait_s)
            if number < self.server.n_tries:
                await asyncio.sleep(self._wait_s(number, ended.wait_s))
        raise Unanswered(f"{ended.error} ({self.server.n_tries} tries)")

    def _wait_s(self, number: int, asked_s: float | None) -> float:
        s = self.server
        longest = min(s.backoff_s * 2 ** (number - 1), s.max_backoff_s)
        if asked_s is not None:
            return asked_s + random.uniform(0.0, min(longest, 1.0))
        return random.uniform(0.5, 1.0) * longest

    def _raise(self, ended: _Try, shows: bool) -> None:
        """Ends the item, or the evaluation where every other item would end the same."""
        if ended.meaning is Meaning.IMAGES and shows and not self._n_image_replies:
            raise Hopeless(
                f"model must take images: got {ended.error} from {self.server.model!r} ({self.server.keys}.model)"
            ) from None
        if ended.meaning is Meaning.FATAL:
            raise Hopeless(self._sentence(ended.status, ended.error)) from None
        if ended.meaning is Meaning.OTHER:
            self._n_refused += 1
            if not self._n_replies and self._n_refused >= MAX_REFUSED:
                raise Hopeless(
                    f"the server must take the requests: got {ended.error} for each of the first {MAX_REFUSED} "
                    f"({self.server.keys})"
                ) from None
        raise Refused(ended.meaning, ended.error) from None

    def _sentence(self, status: int | None, said: str) -> str:
        s = self.server
        if status == 401:
            of = f"the environment variable {s.key_env}" if s.key else "no environment variable"
            return f"the server must take the key: got {said} for that of {of} ({s.keys}.key_env)"
        if status in (404, 405):
            return (
                f"the server must have the model and chat completions: got {said} for model={s.model!r} from "
                f"{s.base_url} ({s.keys}.model, {s.keys}.base_url)"
            )
        keys = dict.fromkeys(f"{s.keys}.{key}" for field, key in _KEYS.items() if field in said) or [s.keys]
        return (
            f"the server must take the requests: got {said} for model={s.model!r} from {s.base_url} ({', '.join(keys)})"
        )

    # ------------------------------------------------------------- one request

    async def _try(self, messages: Sequence[Message], asked: Mapping[str, Any]) -> _Try:
        """Sends a request once and writes its line, whatever comes."""
        ended, begin, sent = _Try(), time.monotonic(), datetime.datetime.now(datetime.UTC)
        try:
            async with asyncio.timeout(self.server.timeout_s):
                await self._send(messages, ended)
        except (TimeoutError, openai.APITimeoutError):
            ended.error, ended.again = f"no reply in {self.server.timeout_s:g} s", True
        except openai.APIStatusError as error:
            self._read_error(ended, error)
        except openai.APIConnectionError as error:
            ended.error, ended.again = self._hide(_cause(error)), True
            ended.outcome = Outcome.FAILED if "Connect" in type(error.__cause__).__name__ else Outcome.LOST
        except BadReply as error:
            ended.error, ended.again, ended.outcome = self._hide(str(error)), True, Outcome.UNREADABLE
        except BaseException:
            ended.outcome, ended.error = Outcome.CUT, "the evaluation ended"
            raise
        finally:
            record = {
                "time": sent.isoformat(timespec="milliseconds"),
                **asked,
                "status": ended.status,
                "outcome": str(ended.outcome),
                "seconds": round(time.monotonic() - begin, 3),
                "model": self.server.model,
                "usage": None if ended.usage is None else dataclasses.asdict(ended.usage),
                "request_id": ended.request_id,
                "error": ended.error,
            }
            self._requests.write(record)
            log.count(self._meter, record)
        return ended

    async def _send(self, messages: Sequence[Message], ended: _Try) -> None:
        create = self._api.chat.completions.with_streaming_response.create  # of the bytes, for their bound
        # As an extra field, messages are not gone through part by part, which costs more than to send them.
        body = {"messages": messages, **self.server.fields}
        async with create(model=self.server.model, messages=[], extra_body=body) as response:
            ended.status = response.status_code
            ended.request_id = self._hide(response.headers.get("x-request-id") or "") or None
            pieces, n = [], 0
            try:
                async for piece in response.iter_bytes():
                    pieces.append(piece)
                    n += len(piece)
                    if n > MAX_REPLY_BYTES:
                        raise BadReply(f"a reply of more than {MAX_REPLY_BYTES} bytes")
            except (openai.OpenAIError, BadReply):
                raise
            except Exception as error:  # of the HTTP library, which is the package's own choice
                raise openai.APIConnectionError(request=response.http_request) from error
        payload = self._hidden(_json(b"".join(pieces)))
        ended.usage = usage_of(payload.get("usage")) if isinstance(payload, dict) else None
        ended.reply = reply_of(payload)
        ended.outcome = Outcome.REPLY

    def _read_error(self, ended: _Try, error: openai.APIStatusError) -> None:
        code, message = error_in(self._hidden(error.body))
        message = self._hide(message)
        ended.status, ended.request_id = error.status_code, self._hide(error.request_id or "") or None
        ended.meaning = meaning_of(error.status_code, code, message)
        ended.error = f"status {error.status_code}" + (f": {message}" if message else "")
        ended.again = ended.meaning is Meaning.AGAIN
        ended.outcome = Outcome.FAILED if ended.again else Outcome.REFUSED
        if ended.again:
            ended.wait_s = retry_after_s(error.response.headers, datetime.datetime.now(datetime.UTC))

    # -------------------------------------------------------------- the key

    def _hide(self, text: str) -> str:
        """A text of a server without the key, nor anything that looks like one."""
        return redact(one_line(self._hidden(encodable(text))), {})  # shortened last: no part of a key is left

    def _hidden(self, value: Any) -> Any:
        """A JSON value with the key taken out of every text."""
        if not self.server.key:
            return value
        if isinstance(value, str):
            for form in (self.server.key, urllib.parse.quote(self.server.key, safe="")):
                value = value.replace(form, REDACTED)
            return value
        if isinstance(value, dict):
            return {self._hidden(name): self._hidden(part) for name, part in value.items()}
        return [self._hidden(part) for part in value] if isinstance(value, list) else value


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise BadReply(f"a reply that is no JSON ({type(error).__name__})") from None


def _cause(error: BaseException) -> str:
    """What is behind an error of the connection, in a few words."""
    cause = error.__cause__ or error
    text = " ".join(str(cause).split())
    return f"{type(cause).__name__}: {text}" if text else type(cause).__name__
