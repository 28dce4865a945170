"""Cleaning of outside text."""

import sys
import unicodedata

import pytest

from arft_jax.tools.clean import CUT, clean_text


@pytest.mark.parametrize(
    ("dirty", "expected"),
    [
        ("a\x00b\x07c\x7f", "abc"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text\x1b]8;;http://x\x1b\\link", "textlink"),
        ("\x1bcreset", "reset"),
        ("zero\u200bwidth\u200d\ufeff \u2060joined", "zerowidth joined"),
        ("a\u202etxt.exe\u202c\u2066b\u2069\u200f", "atxt.exeb"),
        ("tag\U000e0041\U000e007f", "tag"),
        ("lone\ud800", "lone"),
        ("one\r\ntwo\rthree\u2028four\tfive", "one\ntwo\nthree\nfour\tfive"),
        ("  北京 <|im_end|> é  ", "北京 <|im_end|> é"),
        ("\x9b31mC1", "31mC1"),
    ],
)
def test_what_cannot_be_seen_is_gone_and_the_rest_stays(dirty, expected):
    assert clean_text(dirty, 1000) == expected


@pytest.mark.parametrize("max_chars", [1, 5, 6, 7, 20, 99, 100])
def test_the_cap_counts_the_marker(max_chars):
    assert len(clean_text("x" * 101, max_chars)) == max_chars
    assert clean_text("x" * 101, 50).endswith("x" + CUT)
    assert clean_text("x" * 50, 50) == "x" * 50


def test_a_cap_below_one_is_refused():
    with pytest.raises(ValueError, match="max_chars must be at least 1: got 0"):
        clean_text("a", 0)


def test_every_character_of_a_category_that_cannot_be_seen_is_dropped_and_no_other():
    """Against the tables of this Python; those of another version differ in characters that are unassigned here."""
    known = [c for c in map(chr, range(0x80, sys.maxunicode + 1)) if unicodedata.category(c) != "Cn"]
    seen = "".join(c for c in known if unicodedata.category(c) not in ("Cc", "Cf", "Cs"))
    cleaned = clean_text(f"é{''.join(known)}é", len(known) + 2)
    assert cleaned == f"é{seen}é".replace("\u2028", "\n").replace("\u2029", "\n")


def test_what_is_not_read_is_said_to_be_cut_though_what_was_read_is_short():
    # 8 * 20 + 1000 characters are read: "a" and spaces that strip() takes away.
    assert clean_text("a" + " " * 2000 + "b", 20) == "a" + CUT
    assert clean_text("a" + " " * 1158 + "b", 20) == "a" + CUT
    assert clean_text("a" + "\0" * 1158 + "b", 20) == "ab"
