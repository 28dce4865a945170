"""The HTTP side: chat completions, models, health and metrics, as an ASGI application."""

import asyncio
import contextlib
import dataclasses
import hmac
import json
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from arft_jax.rollout.service import Closed, Full, Service
from arft_jax.serve import replies as tell
from arft_jax.serve.door import Asked, Door
from arft_jax.serve.metrics import Metrics
from arft_jax.serve.record import Recorder
from arft_jax.serve.replies import Replies
from arft_jax.serve.requests import BadRequest
from arft_jax.serve.waiting import Waiting
from arft_jax.syntax.hermes import OPEN
from arft_jax.trajectory import Status, Trajectory

RETRY_S = 1  # told to a client that is refused because the server is full


@dataclasses.dataclass(frozen=True)
class Terms:
    """What a server allows.

    Args:
      key: that clients must send as a bearer token; empty: none.
      max_body_bytes: of a request.
      timeout_s: seconds that a request may take, its wait for a slot included.
    """

    key: str = ""
    max_body_bytes: int = 64 << 20
    timeout_s: float = 600.0


class Refused(Exception):
    """A request that gets an error.

    Args:
      status: of HTTP.
      body: as JSON.
      headers: beside it.
    """

    def __init__(self, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None):
        super().__init__(body["error"]["message"])
        self.status, self.body, self.headers = status, body, dict(headers or {})


class Server:
    """One policy behind HTTP.

    Args:
      service: plays requests; its thread is somebody else's.
      door: reads bodies.
      tokenizer: of the policy.
      terms: what is allowed.
      recorder: where trajectories go; None: nowhere.
      stamp: what is recorded with each of them.
    """

    def __init__(
        self,
        service: Service,
        door: Door,
        tokenizer,
        terms: Terms,
        recorder: Recorder | None = None,
        stamp: Mapping[str, Any] | None = None,
    ):
        self._service, self._door, self._tokenizer, self._terms = service, door, tokenizer, terms
        self._pieces = tokenizer.token_bytes()
        self._recorder, self._stamp, self._begun = recorder, dict(stamp or {}), int(time.time())
        self.metrics = Metrics(service)

    def app(self) -> Starlette:
        """The application."""
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self.complete, methods=["POST"]),
                Route("/v1/models", self.models),
                Route("/health", self.health),
                Route("/metrics", self.told_metrics),
            ]
        )

    # ------------------------------------------------------------------ routes

    async def models(self, request: Request) -> Response:
        """The policy, and the agents that run on it."""
        listed = [
            {"id": name, "object": "model", "created": self._begun, "owned_by": "arft_jax"}
            for name in self._door.models
        ]
        return JSONResponse({"object": "list", "data": listed})

    async def health(self, request: Request) -> Response:
        """200 while requests are played."""
        if self._service.fault is not None:
            return JSONResponse({"status": "failed"}, 503)
        if self._service.is_closed:
            return JSONResponse({"status": "stopping"}, 503)
        return JSONResponse({"status": "ok"})

    async def told_metrics(self, request: Request) -> Response:
        """Prometheus's text."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4")

    async def complete(self, request: Request) -> Response:
        """``POST /v1/chat/completions``."""
        begin = time.monotonic()
        try:
            self._check_key(request)
            identity = f"chatcmpl-{uuid.uuid4().hex}"
            body = await self._body(request)
            try:
                asked = await asyncio.to_thread(self._door.read, body, identity)
            except BadRequest as bad:
                raise Refused(400, tell.error(str(bad), "invalid_request_error", bad.param, bad.code)) from None
            model = asked.chat.model or self._door.name
            replies = Replies(asked, identity, int(time.time()), model, self._pieces)
            waiting = Waiting(asyncio.get_running_loop(), replies)
            ticket = self._submit(asked, waiting)
            if asked.chat.stream:
                events = self._stream(replies, waiting, ticket, begin)
                first = await anext(events)  # refusals come with their status, not inside of a stream
                return StreamingResponse(_all_of(first, events), media_type="text/event-stream")
            rows = await self._whole(request, replies, waiting, ticket, begin)
            self._count(200, begin)
            return JSONResponse(replies.completion(rows))
        except Refused as refused:
            self._count(refused.status, begin)
            return JSONResponse(refused.body, refused.status, refused.headers)
        except ClientDisconnect:
            self._count(499, begin)
            return Response(status_code=499)

    # ------------------------------------------------------------------- parts

    def _count(self, status: int, begin: float) -> None:
        self.metrics.requests.labels(str(status)).inc()
        if status == 200:
            self.metrics.seconds.observe(time.monotonic() - begin)

    def _check_key(self, request: Request) -> None:
        if not self._terms.key:
            return
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), self._terms.key.encode()):
            raise Refused(401, tell.error("the API key is not the server's", "authentication_error"))

    async def _body(self, request: Request) -> bytes:
        most, body = self._terms.max_body_bytes, bytearray()
        async for piece in request.stream():
            body += piece
            if len(body) > most:
                raise Refused(413, tell.error(f"a body must have at most {most} bytes", "invalid_request_error"))
        return bytes(body)

    def _submit(self, asked: Asked, waiting: Waiting) -> int:
        try:
            return self._service.submit(asked.request, waiting)
        except Full as full:
            raise Refused(429, tell.error(str(full), "server_full"), {"Retry-After": str(RETRY_S)}) from None
        except Closed as closed:
            raise Refused(503, tell.error(str(closed), "server_stopping")) from None

    async def _event(self, waiting: Waiting, begin: float, gone: asyncio.Task | None = None) -> tuple:
        """The next event of a request.

        Raises:
          Refused: it failed, or took too long.
          ClientDisconnect: nobody waits for it any more.
        """
        left_s = max(self._terms.timeout_s - (time.monotonic() - begin), 0)
        getting = asyncio.ensure_future(waiting.queue.get())
        try:
            watched = {getting} | ({gone} if gone else set())
            done, _ = await asyncio.wait(watched, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not getting.done():
                getting.cancel()
        if getting not in done:
            if gone is not None and gone in done:
                raise ClientDisconnect
            told = f"the request took more than {self._terms.timeout_s:g} s"
            raise Refused(504, tell.error(told, "timeout"))
        event = getting.result()
        if event[0] == "begun":
            self.metrics.first_seconds.observe(time.monotonic() - begin)
        if event[0] == "failed":
            status = 503 if isinstance(event[1], Closed) else 400
            raise Refused(status, tell.error(str(event[1]).partition(" (config")[0], "server_error"))
        if event[0] == "ended" and any(row.status is Status.INFRA for row in event[1]):
            raise Refused(503, tell.error("a tool of the agent failed for a fault of the server", "tool_failure"))
        return event

    async def _whole(self, request: Request, replies: Replies, waiting: Waiting, ticket: int, begin: float):
        gone = asyncio.ensure_future(_until_gone(request))
        try:
            while (event := await self._event(waiting, begin, gone))[0] != "ended":
                pass
        except (Refused, ClientDisconnect, asyncio.CancelledError):
            self._service.leave(ticket)
            raise
        finally:
            gone.cancel()
        self._keep(replies, event[1])
        return event[1]

    async def _stream(self, replies: Replies, waiting: Waiting, ticket: int, begin: float) -> AsyncIterator[str]:
        is_whole = False
        try:
            event = await self._event(waiting, begin)
            for index in range(replies.asked.chat.n):
                yield _line(replies.chunk(index, {"role": "assistant", "content": ""}))
            while event[0] != "ended":
                for chunk in _chunks_of(replies, event):
                    yield _line(chunk)
                event = await self._event(waiting, begin)
            is_whole = True
            self._keep(replies, event[1])
            for row in event[1]:
                for chunk in _last_chunks(replies, waiting, row):
                    yield _line(chunk)
            if replies.asked.chat.include_usage:
                yield _line(replies.last_chunk(event[1]))
            yield "data: [DONE]\n\n"
            self._count(200, begin)
        except Refused as refused:
            if waiting.is_begun:
                self._count(refused.status, begin)
                yield _line(refused.body)
            else:
                raise
        finally:
            if not is_whole:
                self._service.leave(ticket)

    def _keep(self, replies: Replies, rows: list[Trajectory]) -> None:
        """Remembers what was sampled, for later requests and for the record."""
        asked = replies.asked
        if not asked.kind:
            eos = self._tokenizer.eos_id
            for row in rows:
                ids = row.tokens[row.prompt_len :]
                ids = ids[:-1] if len(ids) and ids[-1] == eos else ids
                call = replies.call_id(row.row) if asked.chat.tools else ""
                self._door.memory.keep(asked.before, self._tokenizer.decode(ids), ids, call)
        if self._recorder is not None:
            terms = asked.request.own
            how = {"temperature": terms.temperature, "top_p": terms.top_p, "seed": asked.chat.seed}
            said = {"request": replies.identity, "metadata": dict(asked.chat.metadata), "served": how}
            self._recorder.put(rows, self._stamp | said)


def _chunks_of(replies: Replies, event: tuple) -> list[dict[str, Any]]:
    if event[0] == "thought":
        return [replies.chunk(event[1], {"reasoning_content": event[2]})]
    if event[0] != "text" or not (event[2] or len(event[3])):
        return []
    more = {}
    if replies.asked.chat.logprobs:
        more["logprobs"] = replies.logprobs(event[3], event[4])
    if replies.asked.chat.return_token_ids:
        more["token_ids"] = event[3].tolist()
    return [replies.chunk(event[1], {"content": event[2]}, **more)] if event[2] or more else []


def _last_chunks(replies: Replies, waiting: Waiting, row: Trajectory) -> list[dict[str, Any]]:
    choice = replies.choice(row)
    message, reason = choice["message"], choice["finish_reason"]
    if replies.asked.kind:
        turns = row.turns[waiting.n_turns_told(row.row) :]
        thoughts = [replies.chunk(row.row, {"reasoning_content": tell.told_of(turn) + "\n"}) for turn in turns]
        answer = [replies.chunk(row.row, {"content": message["content"]})] if message["content"] else []
        return [*thoughts, *answer, replies.chunk(row.row, {}, reason, trajectory=choice["trajectory"])]
    rest, tokens, logps = waiting.rest(row)
    if "tool_calls" in message:
        rest = rest.partition(OPEN)[0]
    chunks = _chunks_of(replies, ("text", row.row, rest, tokens, logps))
    for place, call in enumerate(message.get("tool_calls", ())):
        chunks.append(replies.chunk(row.row, {"tool_calls": [{"index": place} | call]}))
    return [*chunks, replies.chunk(row.row, {}, reason)]


def _line(value: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


async def _all_of(first: str, rest: AsyncIterator[str]) -> AsyncIterator[str]:
    async with contextlib.aclosing(rest):
        yield first
        async for piece in rest:
            yield piece


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
