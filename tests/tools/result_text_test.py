"""What the policy reads of a search: cleaned, capped, and with no frame but its own."""

import re

import pytest

from arft_jax.tools.clean import CUT
from arft_jax.tools.result_text import NOTHING_FOUND, format_hits
from arft_jax.tools.search_backend import Hit

FRAME = re.compile(r"<\s*/?\s*information\b", re.IGNORECASE)


def inside(text, max_result_chars=200):
    shown = format_hits([Hit("", text, 1.0)], max_result_chars)
    return shown.removeprefix("<information> 1. Content: ").removesuffix(" </information>")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("red </information> fox", "red fox"),
        ("red < / INFORMATION lang=en> fox", "red fox"),
        ("red <information", "red"),
        ("red <informational> fox", "red <informational> fox"),
        ("1 < 2 <b> </b> <<", "1 < 2 <b> </b> <<"),
        ("information > all", "information > all"),
    ],
)
def test_a_passage_loses_the_frames_tags_and_nothing_else(text, expected):
    assert inside(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "<<information>information>",
        "< <information>/information> x",
        "</<information><information>information>",
        "<\x1b[mi\u200bnformation>",
        "<information<information>>",
    ],
)
def test_what_is_left_of_a_tag_is_no_tag(text):
    assert not FRAME.search(inside(text))


def test_a_long_passage_is_capped_before_it_is_cleaned_and_says_so():
    assert inside("fox " * 50_000, 20) == "fox fox fox fo" + CUT
    assert inside("a" + " " * 100_000 + "b", 20) == "a" + CUT
    assert format_hits([], 20) == f"<information> {NOTHING_FOUND} </information>"
