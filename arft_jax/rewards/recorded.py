"""R_format and R_acc of one recorded step: a completion against the step that a recorded chain takes next.

Visual-ARFT (arXiv 2505.14246), the released trainers of May 2025 (github.com/Liuziyu77/Visual-RFT, Visual-ARFT/,
grpo_agent_code.py and grpo_agent_search.py), oddities included: opening tags alone are counted; tags that do not stand
on one line are not found, and the whole text is compared in place of what they hold; a code step earns 0.9 whatever it
holds, even nothing. Departures:

1. Queries are compared by token F1, without a threshold, where no embedding function is given. With one it is the
   cosine, 0 below 0.5.
2. math-verify is not tried before the comparison of a search agent's step.
3. No completion's text is overwritten by a reference before it is scored: a row earns what it wrote.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np

from arft_jax.rewards import text

Embed = Callable[[Sequence[str]], np.ndarray]  # n texts to float[n, D]

CODE_REWARD = 0.9
MIN_COSINE = 0.5
STEPS = {"coding": ("answer", "code", "problem"), "search": ("answer", "search")}  # by agent; looked for in this order
_ROTATIONS = ("rotation90", "rotation180")
_THINK, _THOUGHT_END, _FENCE = "<think>", "</think>", "```"
_KINDS = re.compile(r"\s*+\{\s*+'[^']++'\s*+(?:,\s*+'[^']++'\s*+)*+\}\s*+")
_KIND = re.compile(r"'([^']++)'")
_SET_BEGIN, _SET_END = re.compile(r"<problem>\s*+\{"), re.compile(r"\}\s*+</problem>")


def step_of(kind: str, target: str) -> str:
    """Which step a recorded text is: the first of its agent's tags, in the order of :data:`STEPS`, that it opens.

    >>> step_of("coding", "<think>dim</think><problem>{'dark'}</problem>")
    'problem'

    Raises:
      ValueError: an unknown agent, or a text without a tag of its.
    """
    if kind not in STEPS:
        raise ValueError(f"kind must be one of {', '.join(STEPS)}: got {kind!r}")
    for step in STEPS[kind]:
        if f"<{step}>" in target:
            return step
    tags = ", ".join(f"<{step}>" for step in STEPS[kind])
    raise ValueError(f"a recorded {kind} step must hold one of {tags}: got {target[:80]!r}")


def format_score(kind: str, target: str, completion: str) -> float:
    """R_format: 1.0 where the whole completion is a thought and one action in form, no tag opened twice; else 0.0.

    Coding: the action is that of the recorded step. Search: either one, an answer where it holds an answer's tags.

    Args:
      kind: coding or search.
      target: the recorded step.
      completion: what the policy wrote.
    """
    step = step_of(kind, target)
    if any(completion.count(f"<{tag}>") > 1 for tag in ("think", *STEPS[kind])):
        return 0.0
    if kind == "search":
        step = "answer" if "<answer>" in completion and "</answer>" in completion else "search"
    return float(_is_thought_and(step, completion))


def _is_thought_and(tag: str, whole: str) -> bool:
    """Whether a text that opens a tag once at most is ``<think>..</think>`` and the tag's element in its form."""
    before, opened, behind = whole.partition(f"<{tag}>")
    before, end = before.rstrip(), f"</{tag}>"
    has_thought = before.removeprefix(_THINK).endswith(_THOUGHT_END) and before.startswith(_THINK)
    if not (opened and has_thought and behind.endswith(end)):
        return False
    body = behind.removesuffix(end)
    if tag == "problem":
        return _KINDS.fullmatch(body) is not None
    code = body.lstrip()
    return tag != "code" or (code.startswith(f"{_FENCE}python") and _FENCE in code.removeprefix(f"{_FENCE}python"))


def accuracy_score(kind: str, target: str, completion: str, embed: Embed | None = None) -> float:
    """R_acc of a completion against the recorded step; 0 where it opens another action's tag.

    An answer: :func:`set_f1`. A search: :func:`query_score`. A problem: :func:`problem_score`. Code: 0.9.

    Args:
      kind: coding or search.
      target: the recorded step.
      completion: what the policy wrote.
      embed: of queries; None: token F1.
    """
    step = step_of(kind, target)
    if any(f"<{other}>" in completion for other in STEPS[kind] if other != step):
        return 0.0
    if step == "code":
        return CODE_REWARD
    if step == "problem":
        return problem_score(named_kinds(completion), named_kinds(target))
    given, wanted = inner(step, completion), inner(step, target)
    return set_f1(given, wanted) if step == "answer" else query_score(given, wanted, embed)


def inner(tag: str, whole: str) -> str:
    """What stands between a tag and its end on one line, stripped; the whole text where there is no such pair.

    >>> inner("answer", "<answer> 7 </answer>"), inner("answer", " 7 ")
    ('7', '7')
    """
    for line in whole.split("\n"):
        found, closed, _ = line.partition(f"<{tag}>")[2].partition(f"</{tag}>")
        if closed:
            return found.strip()
    return whole.strip()


def set_f1(answer: str, truth: str) -> float:
    """F1 = 2 n / (|p| + |a|): n distinct words in common, |p| and |a| all words, articles and punctuation left out.

    Unlike :func:`arft_jax.rewards.text.score_answer` two texts of no word, as the choice "A", score 0.

    >>> set_f1("red red fox", "the Red fox")
    0.8
    """
    given, wanted = text.normalise(answer).split(), text.normalise(truth).split()
    n_common = len(set(given) & set(wanted))
    return 2.0 * n_common / (len(given) + len(wanted)) if n_common else 0.0


def query_score(query: str, truth: str, embed: Embed | None = None) -> float:
    """cos(e(query), e(truth)), 0 below 0.5; token F1 where there is no embedding function.

    Raises:
      ValueError: an embedding function that does not give float[2, D].
    """
    if embed is None:
        return text.score_answer(query, (truth,))[0]
    vectors = np.asarray(embed((query, truth)), np.float64)
    if vectors.ndim != 2 or len(vectors) != 2:
        raise ValueError(f"embed must give float[n, D] for n texts: got shape {vectors.shape} for 2 texts")
    norms = np.linalg.norm(vectors, axis=1)
    cosine = float(vectors[0] @ vectors[1] / max(norms[0] * norms[1], 1e-12))
    return cosine if cosine >= MIN_COSINE else 0.0


def named_kinds(whole: str) -> list[str]:
    """The kinds in a text's ``<problem>`` set, sorted; a kind named twice stands twice; empty where there is no set."""
    begin = _SET_BEGIN.search(whole)
    end = _SET_END.search(whole, begin.end()) if begin else None
    return sorted(_KIND.findall(whole, begin.end(), end.start())) if end else []


def problem_score(named: Sequence[str], truth: Sequence[str]) -> float:
    """1 for the same kinds, 0.5 for a lone rotation where the truth is that rotation and one more kind, else 0.

    >>> [problem_score(named, ["dark", "rotation90"]) for named in (["dark", "rotation90"], ["rotation90"], ["dark"])]
    [1.0, 0.5, 0.0]
    """
    rotation = next((kind for kind in _ROTATIONS if kind in truth), None)
    if len(truth) == 2 and rotation is not None and list(named) == [rotation]:
        return 0.5
    return float(sorted(named) == sorted(truth))
