"""Replies to a plain question: what of them is the answer."""

import pytest

from arft_jax.protocol import Answer, Malformed, ToolCall
from arft_jax.syntax.plain import PlainSyntax

SYNTAX = PlainSyntax()


@pytest.mark.parametrize(
    "text, answer",
    [
        (" Seven.\n", "Seven."),
        ("It is <answer> 7 </answer> and more", "7"),
        ("<answer>7", "7"),
        ("<think>5 or 7?</think>\n7", "7"),
        ("5 or </think> 7", "5 or </think> 7"),  # no thought was opened
        ("<search>fox</search>", "<search>fox</search>"),
    ],
)
def test_the_whole_reply_is_the_answer_unless_it_marks_one(text, answer):
    assert SYNTAX.parse(text) == Answer(answer) and SYNTAX.is_well_formed(text)


@pytest.mark.parametrize("text", ["", " \n", "<think>hm</think>", "<answer> </answer>"])
def test_a_reply_without_an_answer_is_empty(text):
    assert SYNTAX.parse(text) == Malformed("the reply is empty") and not SYNTAX.is_well_formed(text)


def test_nothing_but_answers_is_written():
    assert SYNTAX.parse(SYNTAX.write(Answer("7"))) == Answer("7")
    with pytest.raises(ValueError, match="must be an answer"):
        SYNTAX.write(ToolCall("search", {"query": "fox"}))
    assert SYNTAX.system("text", ()) == "text" and SYNTAX.reply("text") == ("", "text")
