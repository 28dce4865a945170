"""What an error of a server means: worth another try, the fault of the item, or the end of the evaluation.

Status codes of RFC 9110 and the error codes of OpenAI's API reference; the messages of vLLM, LMDeploy, llama.cpp and
OpenRouter, which have no codes, are recognised by words. Retry-After: RFC 9110, section 10.2.3.
"""

import datetime
import email.utils
import enum
import math
import string
from collections.abc import Mapping
from typing import Any

_DATA, _DATA_CHARS = "base64,", string.ascii_letters + string.digits + "+/="  # of an image in a URL
MAX_CHARS = 400  # of what a server says, in a message of ours

_AGAIN = (408, 409, 425, 429)  # and 5xx
_NEVER = (401, 402, 403, 404, 405)
_SPENT = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")
_OF_THE_REQUEST = (
    "model_not_found", "invalid_model", "invalid_api_key", "unsupported_parameter", "unsupported_value",
    "unknown_parameter", "unsupported_country_region_territory",
)  # fmt: skip
# A group matches a text that holds all of its words.
_CONTENT = (
    ("content_filter",), ("content filter",), ("content policy",), ("content_policy",), ("content management",),
    ("usage policy",), ("flagged",), ("moderation",), ("safety system",), ("data_inspection_failed",),
)  # fmt: skip
_LENGTH = (
    ("context_length",), ("context length",), ("context window",), ("maximum context",), ("too many tokens",),
    ("prompt is too long",), ("input is too long",), ("input_length",), ("longer than", "length"),
    ("exceed", "token"), ("exceed", "max_model_len"), ("string_above_max_length",), ("request too large",),
)  # fmt: skip
_NO_IMAGES = (
    ("image_url is only supported",), ("not a multimodal",), ("not multimodal",), ("image", "not support"),
    ("multimodal", "not support"), ("image", "n't support"), ("vision", "not support"), ("no vision",),
    ("support image input",), ("multimodal", "not enabled"),
)  # fmt: skip


class Meaning(enum.Enum):
    """What becomes of a request that was answered with an error."""

    AGAIN = "again"  # it may be sent again
    FATAL = "fatal"  # every other one would end the same
    CONTENT = "content"  # the item's content is declined
    LENGTH = "length"  # the item is too long for the model
    IMAGES = "images"  # the model takes no images
    OTHER = "other"  # this request is refused, for a reason that is not known here


class Refused(Exception):
    """The server does not serve this request; ``meaning`` says why, the text is the server's."""

    def __init__(self, meaning: Meaning, text: str):
        super().__init__(text)
        self.meaning = meaning


class Unanswered(Exception):
    """No try of a request was answered; the text says how the last one ended."""


def meaning_of(status: int, code: str, message: str) -> Meaning:
    """Reads an error.

    Args:
      status: of the response.
      code: of OpenAI's error record; empty: none.
      message: of the error, in the server's words.
    """
    text = f"{code} {message}".lower()
    if code in _SPENT:
        return Meaning.FATAL
    if status in (400, 403, 413, 422, 451) and _holds(text, _CONTENT):
        return Meaning.CONTENT
    if status in _NEVER or code in _OF_THE_REQUEST:
        return Meaning.FATAL
    if status == 413 or (status in (400, 422) and _holds(text, _LENGTH)):
        return Meaning.LENGTH
    if status in (400, 422, 500, 501) and _holds(text, _NO_IMAGES):
        return Meaning.IMAGES
    return Meaning.AGAIN if status in _AGAIN or status >= 500 else Meaning.OTHER


def _holds(text: str, groups: tuple[tuple[str, ...], ...]) -> bool:
    return any(all(word in text for word in group) for group in groups)


def error_in(body: Any) -> tuple[str, str]:
    """(code, message) in the body of an error, which may be of OpenAI's form, FastAPI's, LMDeploy's, or a text."""
    if isinstance(body, Mapping):
        error = body.get("error")
        body = error if isinstance(error, Mapping | str) else body
    if not isinstance(body, Mapping):
        return "", one_line(body)
    code = body.get("code")
    said = next((body[key] for key in ("message", "detail", "error_msg") if body.get(key)), body)
    return code if isinstance(code, str) else "", one_line(said)


def one_line(value: Any) -> str:
    """What a server says, as it may stand in a message of ours: without images, and no longer than MAX_CHARS."""
    head, *tails = str(value if value is not None else "").split(_DATA)  # some servers say the request back
    text = " ".join(f"{_DATA}...".join([head, *(tail.lstrip(_DATA_CHARS) for tail in tails)]).split())
    return text if len(text) <= MAX_CHARS else f"{text[:MAX_CHARS]}..."


def retry_after_s(headers: Mapping[str, str], now: datetime.datetime) -> float | None:
    """Seconds that a server asks to wait; None where it does not.

    Args:
      headers: of the response; ``retry-after-ms`` is OpenAI's, ``retry-after`` holds seconds or an HTTP date.
      now: with a time zone.
    """
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            value = float(headers.get(name, "")) / unit
        except ValueError:
            continue
        if math.isfinite(value):
            return max(value, 0.0)
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    date = date if date.tzinfo else date.replace(tzinfo=datetime.UTC)
    return max((date - now).total_seconds(), 0.0)
