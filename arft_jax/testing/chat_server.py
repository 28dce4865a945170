"""A chat completions server on loopback: answers from a function, in the documented forms of servers, and fails.

Forms, by the model's name: ``gpt-4o`` and ``o3`` as OpenAI's API reference has them (usage with details, refusals, the
parameters that a reasoning model refuses, rate limits with their headers), ``xcomposer`` as LMDeploy answers for
XComposer2.5 (usage without details, errors without an ``error``). What it counts is what it has sent whole.
"""

import collections
import contextlib
import email.utils
import json
import threading
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FAULTS = (
    "500", "503", "429", "timeout", "drip", "cut", "reset", "garbage", "half_json", "empty_choices", "no_message",
)  # fmt: skip
LIMITS = {
    "x-ratelimit-limit-requests": "500", "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "120ms",
    "x-ratelimit-limit-tokens": "30000", "x-ratelimit-remaining-tokens": "29000", "x-ratelimit-reset-tokens": "2s",
}  # fmt: skip
Answer = Callable[[dict[str, Any]], "str | dict[str, Any]"]  # a request's body -> text, or parts of the choice


class ErrorReply(Exception):
    """An answer that is an error: raised by the function that answers.

    Args:
      status: of HTTP.
      body: JSON value, or text.
      headers: more of them.
    """

    def __init__(self, status: int, body: Any, headers: dict[str, str] | None = None):
        super().__init__(status)
        self.status, self.body, self.headers = status, body, headers or {}


def openai_error(status: int, message: str, code: str | None = None, param: str | None = None, **headers: str):
    """An error in OpenAI's form."""
    body = {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}
    return ErrorReply(status, body, {name.replace("_", "-"): value for name, value in headers.items()})


def question_of(body: dict[str, Any]) -> str:
    """The text of the first message of the user."""
    content = next(m["content"] for m in body["messages"] if m["role"] == "user")
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


def images_of(body: dict[str, Any]) -> list[str]:
    """The URLs of all images of a conversation, in order."""
    lists = [m["content"] for m in body["messages"] if isinstance(m["content"], list)]
    return [part["image_url"]["url"] for parts in lists for part in parts if part["type"] == "image_url"]


class ChatServer:
    """Listens on a port of its own; use as a context manager.

    Args:
      answer: a request's body -> what is answered; may raise :class:`ErrorReply`.
      models: that it lists; None: it has no list.
      faults: number of a request, from 0 -> one of FAULTS, or None: it is answered.
      slow_s: of a time-out.
      key: that requests must carry; empty: any, or none.

    Attributes:
      asked: the bodies of all requests that asked for a completion, in order.
      n_faults: requests that a fault ended, by its name.
      answered: whole replies with a choice, by the question of the conversation.
      spent: tokens of all that was sent whole, by the fields of a usage record.
    """

    def __init__(
        self,
        answer: Answer = lambda body: "<think>t</think><answer>7</answer>",
        models: Sequence[str] | None = ("gpt-4o", "o3", "xcomposer"),
        faults: Callable[[int], str | None] = lambda number: None,
        slow_s: float = 30.0,
        key: str = "",
        keep_bodies: bool = True,
    ):
        self.answer, self.models, self.faults, self.key = answer, models, faults, key
        self.asked: list[dict[str, Any]] = []
        self.n_requests, self.n_faults = 0, collections.Counter()
        self.answered, self.spent = collections.Counter(), collections.Counter()
        self._slow_s, self._keep_bodies = slow_s, keep_bodies
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._http = _Http(self)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """What goes into config.openai.base_url."""
        return f"http://127.0.0.1:{self._http.server_port}/v1"

    def close(self) -> None:
        """Ends what it is doing, and stops listening."""
        self._ended.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def __enter__(self) -> "ChatServer":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # ------------------------------------------------------------- a request

    def take(self, body: dict[str, Any]) -> str | None:
        """Notes a request; returns the fault that ends it."""
        with self._lock:
            number, self.n_requests = self.n_requests, self.n_requests + 1
            if self._keep_bodies:
                self.asked.append(body)
            fault = self.faults(number)
            self.n_faults.update([fault] if fault else [])
        return fault

    def wait(self) -> None:
        """As long as a time-out takes, or until the server is closed."""
        self._ended.wait(self._slow_s)

    def ended(self, seconds: float) -> bool:
        """Waits so long; whether the server is closed."""
        return self._ended.wait(seconds)

    def sent(self, question: str, payload: dict[str, Any]) -> None:
        """Counts a reply that was sent whole."""
        with self._lock:
            if payload["choices"]:
                self.answered[question] += 1
            usage = payload["usage"]
            self.spent["prompt_tokens"] += usage["prompt_tokens"]
            self.spent["completion_tokens"] += usage["completion_tokens"]
            self.spent["cached_tokens"] += usage.get("prompt_tokens_details", {}).get("cached_tokens", 0)
            self.spent["reasoning_tokens"] += usage.get("completion_tokens_details", {}).get("reasoning_tokens", 0)

    def completion(self, body: dict[str, Any]) -> dict[str, Any]:
        """The body of a reply in the form of the model's server; raises ErrorReply where that refuses a parameter."""
        model = body["model"]
        if model == "o3":
            _check_reasoning(body)
        given = self.answer(body)
        parts = {"text": given} if isinstance(given, str) else dict(given)
        text, refusal = parts.get("text"), parts.get("refusal")
        n_prompt = sum(len(str(m["content"])) for m in body["messages"] if isinstance(m["content"], str)) // 4
        n_prompt += len(question_of(body)) // 4 + 85 * len(images_of(body)) + 3
        n_out = len(text or refusal or "") // 4 + 1
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": parts.get("finish", "stop")}
        choice |= {name: parts[name] for name in ("stop_reason",) if name in parts}
        usage = {"prompt_tokens": n_prompt, "completion_tokens": n_out, "total_tokens": n_prompt + n_out}
        payload = {"id": f"chatcmpl-{self.n_requests}", "object": "chat.completion", "created": 1764300000}
        if model == "xcomposer":
            message["tool_calls"] = None
            return payload | {"model": "internlm-xcomposer2d5-7b", "choices": [choice], "usage": usage}
        message |= {"refusal": refusal, "annotations": []}
        n_reasoning = 64 if model == "o3" else 0
        usage["completion_tokens"] += n_reasoning
        usage["total_tokens"] += n_reasoning
        usage["prompt_tokens_details"] = {"cached_tokens": n_prompt // 2, "audio_tokens": 0}
        usage["completion_tokens_details"] = {"reasoning_tokens": n_reasoning, "audio_tokens": 0}
        version = {"gpt-4o": "gpt-4o-2024-08-06", "o3": "o3-2025-04-16"}.get(model, model)
        more = {"service_tier": "default", "system_fingerprint": "fp_5b26d85e12"}
        return payload | {"model": version, "choices": [choice], "usage": usage} | more


def _check_reasoning(body: dict[str, Any]) -> None:
    if "max_tokens" in body:
        said = "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
        raise openai_error(400, f"Unsupported parameter: {said}", "unsupported_parameter", "max_tokens")
    if body.get("temperature", 1) != 1:
        said = f"'temperature' does not support {body['temperature']} with this model. Only the default (1) value is"
        raise openai_error(400, f"Unsupported value: {said} supported.", "unsupported_value", "temperature")


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, owner: ChatServer):
        self.owner = owner
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request, client_address) -> None:
        """A client that has gone is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        owner = self.server.owner
        if not self._has_key():
            return
        if owner.models is None or not self.path.startswith("/v1/models"):
            return self._send(404, {"detail": "Not Found"})
        if self.path == "/v1/models":
            data = [{"id": name, "object": "model", "created": 0, "owned_by": "test"} for name in owner.models]
            return self._send(200, {"object": "list", "data": data})
        self._send(404, {"error": {"message": "The model does not exist", "code": "model_not_found"}})

    def do_POST(self) -> None:
        owner = self.server.owner
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._has_key():
            return
        if self.path != "/v1/chat/completions":
            return self._send(404, {"detail": "Not Found"})
        fault = owner.take(body)
        try:
            if owner.models is not None and body["model"] not in owner.models:
                raise openai_error(404, f"The model `{body['model']}` does not exist", "model_not_found")
            payload = (
                owner.completion(body) if fault in (None, "cut", "half_json", "empty_choices", "no_message") else {}
            )
        except ErrorReply as error:
            return self._send(error.status, error.body, error.headers)
        if fault is None:
            self._send(200, payload)
            return owner.sent(question_of(body), payload)
        self._fail(fault, payload, body)

    def _has_key(self) -> bool:
        said, key = self.headers.get("Authorization", ""), self.server.owner.key
        if not key or said == f"Bearer {key}":
            return True
        message = f"Incorrect API key provided: {said}. You can find your API key at the provider's page."
        self._send(401, {"error": {"message": message, "type": "invalid_request_error", "code": "invalid_api_key"}})
        return False

    def _fail(self, fault: str, payload: dict[str, Any], body: dict[str, Any]) -> None:
        owner = self.server.owner
        if fault in ("500", "503"):
            message = f"The server had an error; the request was sent with {self.headers.get('Authorization')}"
            return self._send(int(fault), {"error": {"message": message, "type": "server_error", "code": None}})
        if fault.startswith("429"):
            return self._send(429, _rate_limit(), LIMITS | {"Retry-After": _after(fault)})
        if fault == "timeout":
            owner.wait()
            self.close_connection = True
            return None
        if fault == "drip":
            return self._drip()
        if fault == "reset":
            self.close_connection = True
            return None
        if fault == "garbage":
            return self._send(200, "<html>upstream is busy</html>")
        if fault == "empty_choices":
            payload = payload | {"choices": []}
            self._send(200, payload)
            return owner.sent(question_of(body), payload)
        if fault == "no_message":
            return self._send(200, {"choices": [{"index": 0}]})
        data = json.dumps(payload).encode()
        half = data[: len(data) // 2]
        if fault == "half_json":
            return self._send(200, half.decode())
        self._head(200, len(data), {})
        self.wfile.write(half)
        self.close_connection = True
        return None

    def _drip(self) -> None:
        """A byte now and then: no wait between two of them is long."""
        self._head(200, 10_000, {})
        with contextlib.suppress(OSError):
            while not self.server.owner.ended(0.02):
                self.wfile.write(b" ")
        self.close_connection = True

    def _send(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self._head(status, len(data), headers or {})
        self.wfile.write(data)

    def _head(self, status: int, n_bytes: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(n_bytes))
        self.send_header("x-request-id", f"req_{self.server.owner.n_requests}")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.flush()


def _rate_limit() -> dict[str, Any]:
    message = "Rate limit reached for gpt-4o in organization org-x on requests per min (RPM): Limit 500, Used 500."
    return {"error": {"message": message, "type": "requests", "param": None, "code": "rate_limit_exceeded"}}


def _after(fault: str) -> str:
    """``429:2`` asks for two seconds, ``429:date:2`` for the date in two seconds."""
    *kind, seconds = fault.split(":")
    if kind[-1:] == ["date"]:
        return email.utils.formatdate(time.time() + float(seconds), usegmt=True)
    return seconds if kind else "0"
