"""Token F1 and exact match of an answer against the accepted ones, as Visual-ARFT scores MAT.

Visual-ARFT (arXiv 2505.14246), MAT benchmark. Pinned by the published predictions, whose figures these
functions give to 0.01. What the figures settle, because prose would allow otherwise:

1. F1 counts the *set* of common tokens over the *list* lengths, so a repeated word costs precision.
2. The Chinese rule is decided a string at a time for spaces and a pair at a time for tokens: a string
   with a Chinese character loses its spaces (not its line breaks) and keeps its articles; a string without
   loses its articles and keeps single spaces; where either is Chinese, both are cut into characters.
3. An answer that is only an article ("A" in a multiple choice) normalises to nothing and equals every other
   such answer. An empty prediction is missing all the same, and scores 0.
"""

import re
import string
from collections.abc import Sequence

_ARTICLES = re.compile(r"(?=[at])\b(?:a\b|an\b|the\b)")
_CHINESE = re.compile("[\u4e00-\u9fff]")
_FULL_WIDTH = "".join(chr(0xFEE0 + ord(c)) for c in string.punctuation)
_CHINESE_MARKS = "\uff61\u3001\u3002\u300a\u300b\u3010\u3011\u201c\u201d\u2018\u2019"
_NO_ASCII_MARKS = str.maketrans("", "", string.punctuation)
_NO_MARKS = str.maketrans("", "", string.punctuation + _FULL_WIDTH + _CHINESE_MARKS)


def is_chinese(text: str) -> bool:
    """Whether a CJK unified ideograph (U+4E00..U+9FFF) stands in the text."""
    return _CHINESE.search(text) is not None


def normalise(text: str, *, chinese: bool = False) -> str:
    """Lower case, without punctuation, articles and needless spaces.

    Args:
      text: an answer.
      chinese: strip Chinese punctuation too, and take the spaces out of Chinese text.

    >>> normalise("The  Cat, sat!"), normalise("红 色。", chinese=True)
    ('cat sat', '红色')
    """
    text = text.lower().translate(_NO_MARKS if chinese else _NO_ASCII_MARKS)
    if chinese and is_chinese(text):
        return text.replace(" ", "")
    return " ".join(_ARTICLES.sub(" ", text).split())


def _score_pair(prediction: str, answer: str, chinese: bool) -> tuple[float, float]:
    prediction, answer = normalise(prediction, chinese=chinese), normalise(answer, chinese=chinese)
    if prediction == answer:
        return 1.0, 1.0
    by_character = chinese and (is_chinese(prediction) or is_chinese(answer))
    ours = list(prediction) if by_character else prediction.split()
    theirs = list(answer) if by_character else answer.split()
    n_common = len(set(ours) & set(theirs))
    # 2pr / (p + r) with p = n / |ours| and r = n / |theirs|
    return (2.0 * n_common / (len(ours) + len(theirs)) if n_common else 0.0), 0.0


def score_answer(prediction: str | None, answers: Sequence[str], *, chinese: bool = False) -> tuple[float, float]:
    """(F1, EM) of a prediction, each the best over the accepted answers; F1 = 1 where EM = 1.

    F1 = 2 n / (|p| + |a|), n the number of distinct tokens in common.

    Args:
      prediction: the answer given; None or blank is missing and scores 0.
      answers: accepted answers, at least one.
      chinese: the rule of MAT-Coding (see :func:`normalise`).

    Returns:
      f1, em in [0, 1].

    Raises:
      ValueError: no accepted answer is given.

    >>> score_answer("a red cat", ["the cat", "dog"])
    (0.6666666666666666, 0.0)
    """
    if isinstance(answers, str) or not answers:
        raise ValueError(f"answers must be a sequence of at least one text: got {answers!r}")
    if prediction is None or not prediction.strip():
        return 0.0, 0.0
    scores = [_score_pair(prediction, answer, chinese) for answer in answers]
    return max(f1 for f1, _ in scores), max(em for _, em in scores)
