"""Which option of a multiple choice an answer names, for letter accuracy as V* and HR-Bench are scored.

V* (arXiv 2312.14135) and HR-Bench (arXiv 2408.15556) count an answer as right where it names the right letter. What
names a letter, the first of these rules that finds one:

1. the answer is a letter, or begins with one and a mark: ``B``, ``(b)``, ``B. cotton``, ``B: cotton``;
2. it says so: ``the answer is (B)``, ``option B``;
3. one letter alone stands in it in brackets, or by itself as a capital; ``A`` alone must have brackets, since it is a
   word;
4. the text of one option alone stands in it, as words.

Departure from V*'s own program: that one compares the likelihoods of the options, which an agent that acts does not
have; generated answers are what later work reports.
"""

import re
import string
from collections.abc import Sequence

from arft_jax.rewards import text

_BEGIN = re.compile(r"\(?([A-Za-z])(?:[).:,]|$)")
_SAID = re.compile(r"\b(?:answer|option|choice)(?: is)?:? ?\(?([A-Z])\b", re.IGNORECASE)
_BRACKETS = re.compile(r"\(([A-Z])\)")


def letter_of(answer: str, choices: Sequence[str]) -> str | None:
    """The letter that an answer names; None where it names none, or several.

    Args:
      answer: as the policy gave it.
      choices: the options' texts, in the order of their letters.

    >>> [letter_of(a, ["rubber", "cotton"]) for a in ("(b)", "B. cotton", "It is cotton.", "A glove", "A or B", "C")]
    ['B', 'B', 'B', None, None, None]
    """
    answer = " ".join(answer.split())
    letters = string.ascii_uppercase[: len(choices)]
    begin = _BEGIN.match(answer)
    if begin and begin[1].upper() in letters and {begin[1].upper()} >= set(_BRACKETS.findall(answer)) & set(letters):
        return begin[1].upper()
    said = {letter.upper() for letter in _SAID.findall(answer)}
    alone = _words(answer) & set(letters)
    for found in (said, set(_BRACKETS.findall(answer)), set() if alone == {"A"} else alone):
        found &= set(letters)
        if found:
            return found.pop() if len(found) == 1 else None
    words = f" {text.normalise(answer)} "
    named = [letter for letter, choice in zip(letters, choices, strict=True) if _is_in(text.normalise(choice), words)]
    return named[0] if len(named) == 1 else None


def _words(answer: str) -> set[str]:
    """Runs of letters, digits and underscores."""
    return set("".join(char if char.isalnum() or char == "_" else " " for char in answer).split())


def _is_in(choice: str, words: str) -> bool:
    return bool(choice) and f" {choice} " in words


def score_choice(answer: str | None, choices: Sequence[str], right: str) -> float:
    """1 where the answer names the right letter, else 0.

    Args:
      answer: as the policy gave it; None: it gave none.
      choices: the options' texts, in the order of their letters.
      right: the letter.
    """
    return float(answer is not None and letter_of(answer, choices) == right)
