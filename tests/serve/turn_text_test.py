"""Text of a turn in the making: pieces add up to the whole, stops cut it, nothing that may be a mark is sent early."""

import numpy as np
import pytest

from arft_jax.data.tokenizer import Tokenizer
from arft_jax.serve.turn_text import TurnText

TEXT = "naïve <tool 🦊 <tool_call>\n{}</tool_call>"


def streamed(text: TurnText, ids, step=1):
    released = []
    for n in range(step, len(ids) + step, step):
        text.read(np.array(ids[:n]))
        released.append(text.release())
    text.finish()
    return released, text.release(all_of_it=True)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.tiny()


@pytest.mark.parametrize("step", [1, 2, 5])
def test_pieces_add_up_to_the_text_and_hold_no_half_characters(tokenizer, step):
    ids = tokenizer.encode(TEXT)
    released, rest = streamed(TurnText(tokenizer.token_bytes()), ids, step)
    assert "".join(released) + rest == TEXT and "\ufffd" not in "".join(released)
    assert len([piece for piece in released if piece]) > 3


@pytest.mark.parametrize("stop", ["tool", "🦊", "ï", "call>\n{", "n"])
def test_a_stop_string_ends_the_text_before_it_wherever_tokens_split_it(tokenizer, stop):
    ids = tokenizer.encode(TEXT)
    text = TurnText(tokenizer.token_bytes(), [stop, "never"])
    released, rest = streamed(text, ids)
    assert "".join(released) + rest == text.text == TEXT[: TEXT.index(stop)]
    assert stop in tokenizer.decode(ids[: text.cut]) and stop not in tokenizer.decode(ids[: text.cut - 1])


def test_a_beginning_of_a_stop_string_is_held_until_it_turns_out_to_be_none(tokenizer):
    text = TurnText(tokenizer.token_bytes(), ["abcd"])
    text.read(np.array(tokenizer.encode("xx abc")))
    assert text.release() == "xx "
    text.read(np.array([*tokenizer.encode("xx abc"), *tokenizer.encode("e")]))
    assert text.release() == "abce" and text.cut is None


def test_a_call_is_not_released_before_the_turn_is_over(tokenizer):
    released, rest = streamed(TurnText(tokenizer.token_bytes(), (), "<tool_call>"), tokenizer.encode(TEXT))
    assert "".join(released) == TEXT[: TEXT.index("<tool_call>")] and rest.startswith("<tool_call>")


def test_a_character_that_was_not_completed_is_shown_at_the_end(tokenizer):
    ids = tokenizer.encode("é")
    assert len(ids) > 1
    released, rest = streamed(TurnText(tokenizer.token_bytes()), ids[:1])
    assert released == [""] and rest == "\ufffd"
