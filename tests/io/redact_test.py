"""Secrets in texts and dumps."""

import pytest

from arft_jax.io.redact import REDACTED, redact, redact_tree

KEY = "0123456789abcdef"


@pytest.mark.parametrize("name", ["SERPER_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "db_password", "X-API-KEY"])
def test_a_secret_of_the_environment_is_blanked_wherever_it_stands(name):
    text = redact(f"a{KEY}b, {KEY}", {name: f" {KEY}\n"})
    assert text == f"a{REDACTED}b, {REDACTED}"


def test_a_secret_is_found_in_the_form_that_a_url_gives_it():
    assert redact("q=a%2Fb%2Bc-d&x", {"MY_TOKEN": "a/b+c-d"}) == f"q={REDACTED}&x"


def test_the_longest_secret_is_blanked_first():
    assert redact("abcdefgh", {"A_KEY": "abcdef", "B_KEY": "abcdefgh"}) == REDACTED


def test_ordinary_variables_and_short_values_leave_text_alone():
    environ = {"TOKENIZERS_PARALLELISM": "false-value", "HOME": "/home/me", "MY_KEY": "short", "MONKEY": "banana-tree"}
    text = "false-value /home/me short banana-tree max_tokens=5 the key: 7"
    assert redact(text, environ) == text


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("http://me:pw@host/x", f"http://{REDACTED}@host/x"),
        ("GET /?api_key=abc&q=fox", f"GET /?api_key={REDACTED}&q=fox"),
        ("Authorization: Bearer abc.def", f"Authorization: {REDACTED}"),
        ("{'X-API-KEY': 'abc'}", f"{{'X-API-KEY': '{REDACTED}'}}"),
        ('{"client_secret": "abc"}', f'{{"client_secret": "{REDACTED}"}}'),
        ("used hf_abcdefghijklmnopqrst.", f"used {REDACTED}."),
        ("mail me@host", "mail me@host"),
    ],
)
def test_what_looks_like_a_secret_is_blanked(dirty, clean):
    assert redact(dirty, {}) == clean


def test_the_environment_is_read_when_it_is_asked(monkeypatch):
    monkeypatch.setenv("LATE_API_KEY", KEY)
    assert redact(KEY) == REDACTED
    monkeypatch.delenv("LATE_API_KEY")
    assert redact(KEY) == KEY


def test_a_dump_keeps_its_shape():
    tree = {
        "tools": {"search": {"api_key": "x", "token": "", "url": f"https://h/{KEY}"}},
        "list": [KEY, 1, None],
        "pair": (KEY,),
        "max_tokens": "5",
        "key": 3,
    }
    assert redact_tree(tree, {"A_KEY": KEY}) == {
        "tools": {"search": {"api_key": REDACTED, "token": "", "url": f"https://h/{REDACTED}"}},
        "list": [REDACTED, 1, None],
        "pair": (REDACTED,),
        "max_tokens": "5",
        "key": 3,
    }
