"""Errors as servers write them, and what each means; Retry-After in its forms."""

import datetime
import email.utils

import pytest

from arft_jax.remote.faults import Meaning, error_in, meaning_of, retry_after_s

A, F, C, L, I, O = Meaning.AGAIN, Meaning.FATAL, Meaning.CONTENT, Meaning.LENGTH, Meaning.IMAGES, Meaning.OTHER  # noqa: E741

CASES = [
    (500, "", "The server had an error while processing your request", A),
    (503, "", "The engine is currently overloaded, please try again later", A),
    (529, "", "overloaded", A),
    (408, "", "", A),
    (409, "", "", A),
    (429, "rate_limit_exceeded", "Rate limit reached for gpt-4o on tokens per min (TPM): Limit 30000", A),
    (429, "insufficient_quota", "You exceeded your current quota, please check your plan and billing details.", F),
    (401, "invalid_api_key", "Incorrect API key provided", F),
    (402, "", "Insufficient credits", F),
    (403, "unsupported_country_region_territory", "Country, region, or territory not supported", F),
    (403, "", "Your chosen model requires moderation and your input was flagged", C),
    (404, "model_not_found", "The model `gpt-5o` does not exist or you do not have access to it.", F),
    (404, "", "Not Found", F),
    (400, "unsupported_parameter", "Unsupported parameter: 'max_tokens' is not supported with this model.", F),
    (400, "unsupported_value", "Unsupported value: 'temperature' does not support 0 with this model.", F),
    (400, "context_length_exceeded", "This model's maximum context length is 8192 tokens. However, ...", L),
    (400, "", "The prompt (total length 9000) is too long to fit into the model (context length 4096).", L),
    (400, "", "The decoder prompt (length 5000) is longer than the maximum model length of 4096.", L),
    (400, "", "the request exceeds the available context size: 5000 tokens", L),
    (413, "", "", L),
    (400, "content_filter", "The response was filtered due to the prompt triggering content management policy.", C),
    (400, "content_policy_violation", "Your request was rejected as a result of our safety system.", C),
    (400, "invalid_prompt", "Invalid prompt: your prompt was flagged as potentially violating our usage policy.", C),
    (400, "", "Invalid content type. image_url is only supported by certain models.", I),
    (400, "", "llama-7b is not a multimodal model", I),
    (500, "", "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj", I),
    (400, "invalid_image_format", "You uploaded an unsupported image. Please make sure your image is valid.", O),
    (400, "", "something else", O),
    (422, "", "Field required", O),
]


@pytest.mark.parametrize("status, code, message, meaning", CASES)
def test_an_error_means_what_its_server_means(status, code, message, meaning):
    assert meaning_of(status, code, message) is meaning


@pytest.mark.parametrize(
    "body, found",
    [
        ({"error": {"message": "too  long\n", "code": "x", "param": None}}, ("x", "too long")),
        ({"message": "m", "code": "x"}, ("x", "m")),  # as the package unwraps it
        ({"object": "error", "message": "m", "type": "invalid_request_error", "code": 400}, ("", "m")),  # LMDeploy
        (
            {"detail": [{"loc": ["body"], "msg": "Field required"}]},
            ("", "[{'loc': ['body'], 'msg': 'Field required'}]"),
        ),
        ({"error": "not found"}, ("", "not found")),
        ("<html>", ("", "<html>")),
        (None, ("", "")),
        ({"message": "m" * 1000}, ("", "m" * 400 + "...")),
        (
            {"detail": [{"msg": "bad", "input": {"url": f"data:image/png;base64,{'iVBOR/+9' * 99}=="}}]},
            ("", "[{'msg': 'bad', 'input': {'url': 'data:image/png;base64,...'}}]"),
        ),
    ],
)
def test_code_and_message_are_found_in_every_form(body, found):
    assert error_in(body) == found


def test_retry_after_is_read_as_seconds_milliseconds_or_a_date():
    now = datetime.datetime(2026, 11, 28, 12, tzinfo=datetime.UTC)
    date = email.utils.format_datetime(now + datetime.timedelta(seconds=90), usegmt=True)
    assert retry_after_s({"retry-after": "7"}, now) == 7.0
    assert retry_after_s({"retry-after": "0.5"}, now) == 0.5
    assert retry_after_s({"retry-after-ms": "250", "retry-after": "7"}, now) == 0.25
    assert retry_after_s({"retry-after": date}, now) == 90.0
    assert retry_after_s({"retry-after": date}, now + datetime.timedelta(hours=1)) == 0.0
    assert retry_after_s({"retry-after": "-3"}, now) == 0.0
    for said in ("", "soon", "inf", "nan", "Sat, 99 Nov 2026 12:00:00 GMT"):
        assert retry_after_s({"retry-after": said}, now) is None
    assert retry_after_s({}, now) is None
