"""No pattern and no door that meets text from outside takes more than linear time: each is fuzzed with its worst text.

The patterns are found in the source, so that a new one is met without being listed. The text is made from the pattern
itself: beginnings of a match that never comes, and long runs of what a repetition takes.
"""

import ast
import importlib
import pathlib
import re
import time

import pytest

import arft_jax
from arft_jax.io.redact import redact
from arft_jax.report import trajectories
from arft_jax.rewards import recorded
from arft_jax.rewards import text as answers
from arft_jax.syntax.hermes import HermesSyntax
from arft_jax.syntax.tags import TagSyntax
from arft_jax.tools import clean, diagnose, python_tool, remote_search
from arft_jax.tools.bundled import BUNDLED
from arft_jax.tools.result_text import format_hits
from arft_jax.tools.search_backend import Hit

PARSER = importlib.import_module("re._parser")  # how the standard library itself reads a pattern

PACKAGE = pathlib.Path(arft_jax.__file__).parent
NO_DOORS = {
    "compile_check": "reads what the compiler of this process wrote",
    "data/synthetic": "reads the questions that it drew itself",
    "testing": "is imported by tests alone",
}
METHODS = ("search", "match", "fullmatch", "findall", "finditer", "sub", "subn", "split")
ANCHORED = ("match", "fullmatch")

N = 1_000_000  # characters
LIMIT_S = 0.05
# Where that is not kept, the machine may be slow or shared. So it is measured in the same minute, by a pattern
# that could not be simpler: one of two letters, in N characters of which every second is one of them. It alone takes
# 45 ms on the machine on which this was written; no pattern may take three times as long.
PER_REFERENCE = 3.0
N_ROUNDS, MAX_NOISE, SHORTEST_S = 6, 10.0, 0.005
N_TINY, N_SCREENED, N_WORST = 24, 2_000, 2
LENGTHS = (2_000, 8_000, 32_000, N)  # in turn, so that one that is quadratic is found before it takes minutes


# ------------------------------------------------------------------ patterns


def uses_in(source, module):
    """(line, pattern, method) of every use of a regular expression in a module."""
    tree = ast.parse(source)
    compiled = {
        name.id
        for node in tree.body
        if isinstance(node, ast.Assign) and "re.compile(" in ast.unparse(node.value)
        for target in node.targets
        for name in ast.walk(target)
        if isinstance(name, ast.Name)
    }
    found, used = [], set()
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in METHODS):
            continue
        owner = ast.unparse(node.func.value).split("[")[0]
        if owner in compiled:
            used.add(owner)
            value = vars(module)[owner]
            each = value.values() if isinstance(value, dict) else [value]
            found += [(node.lineno, pattern, node.func.attr) for pattern in each]
        elif owner == "re":
            assert isinstance(node.args[0], ast.Constant), (
                f"{module.__name__}:{node.lineno}: a pattern must be a constant, or compiled under a name of the module"
            )
            flags = [ast.unparse(word.value) for word in node.keywords if word.arg == "flags"]
            flags += [ast.unparse(arg) for arg in node.args if ast.unparse(arg).startswith("re.")]
            flag = eval(flags[0], {"re": re}) if flags else 0
            found.append((node.lineno, re.compile(node.args[0].value, flag), node.func.attr))
    compiles = source.count("re.compile(")
    assert compiles <= sum(ast.unparse(n).count("re.compile(") for n in tree.body if isinstance(n, ast.Assign)), (
        f"{module.__name__}: a pattern must be compiled under a name of the module"
    )
    assert used == compiled, f"{module.__name__}: no use was found of {', '.join(sorted(compiled - used))}"
    return found


def patterns_of_the_package():
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        source = path.read_text(encoding="utf-8")
        if any("/".join(parts).startswith(f"{room}/") for room in NO_DOORS) or "import re\n" not in source:
            continue
        name = ".".join(("arft_jax", *parts))
        for _, pattern, method in uses_in(source, importlib.import_module(name)):
            found[f"{name}: {pattern.pattern!r}.{method}"] = (pattern, method)
    return found


PATTERNS = patterns_of_the_package()


# ------------------------------------------------------------------ the worst text of a pattern


def member(items):
    """A character of a class."""
    negated = str(items[0][0]) == "NEGATE"
    words = {"SPACE": " ", "DIGIT": "1", "WORD": "a"}
    if not negated:
        op, value = items[0]
        if str(op) == "CATEGORY":
            return words[str(value).removeprefix("CATEGORY_")]
        return chr(value[0] if str(op) == "RANGE" else value)
    taken = {chr(value) for op, value in items[1:] if str(op) == "LITERAL"}
    return next(char for char in "xyz" if char not in taken)


def atoms(tree, choice):
    """[(text, whether it is repeated)] along one way through a pattern; ``choice`` picks among alternatives."""
    found = []
    for op, value in tree:
        kind = str(op)
        if kind == "LITERAL":
            found.append((chr(value), False))
        elif kind in ("NOT_LITERAL", "ANY"):
            found.append(("x", False))
        elif kind == "IN":
            found.append((member(value), False))
        elif kind == "BRANCH":
            found += atoms(value[1][choice % len(value[1])], choice // len(value[1]))
        elif kind == "SUBPATTERN":
            found += atoms(value[-1], choice)
        elif kind == "ATOMIC_GROUP":
            found += atoms(value, choice)
        elif kind.endswith("REPEAT"):
            inner = atoms(value[2], choice)
            found += inner if value[0] else []
            found.append(("".join(text for text, _ in inner), True))
    return found


def attacks(pattern, n):
    """Texts of n characters each: every beginning of a match over and over, and every repetition as one long run."""
    as_bytes = isinstance(pattern.pattern, bytes)
    tree = PARSER.parse(pattern.pattern, pattern.flags & ~re.UNICODE if as_bytes else pattern.flags)
    made = {"a " * (n // 2), " " * n, "x" * n, "\n" * n}
    for choice in range(12):
        way = atoms(tree, choice)
        step = max(1, len(way) // 16)
        for at in range(1, len(way) + 1):
            before, (last, repeated) = "".join(text for text, _ in way[: at - 1]), way[at - 1]
            if repeated:
                run = last * (n // max(1, len(last)))
                made |= {run, before + run, before + run + "\0", before + run + before}
            if at % step == 0 or at == len(way) or repeated:
                start = before + last
                made |= {(start + tail) * (n // len(start + tail)) for tail in ("", " ", "\n", "x") if start + tail}
                made.add(start + "x" * n)
    return [text.encode("latin-1", "replace") for text in made] if as_bytes else list(made)


@pytest.fixture(autouse=True, scope="module")
def room():
    """Room in this process's heap, a string of every few pages kept so that it is not handed back.

    In a heap that is full each call would be charged the page faults of the strings that it makes, round after round.
    """
    strings = [str(number) for number in range(1_000_000)]
    kept = strings[::200]
    del strings
    yield kept


def timed(call):
    """Seconds of the processor: what else runs on the machine adds none."""
    started = time.thread_time()
    call()
    return time.thread_time() - started


def reference():
    return timed(lambda text="ab" * (N // 2): re.sub("[bc]", "", text))


def too_long(call, n=N):
    """The seconds that a call takes where they are too many for n characters, else None.

    The best of some rounds counts, of the call and of the reference: what else runs makes them slower, never faster.
    """
    best, unit = timed(call), float("inf")
    for _ in range(N_ROUNDS):
        if best <= max(LIMIT_S * n / N, SHORTEST_S):
            return None
        unit = min(unit, reference() * n / N)
        if best <= PER_REFERENCE * unit:
            return None
        if best > MAX_NOISE * unit:  # no other program does that
            return best
        best = min(best, timed(call))
    return best


def use(pattern, method, text):
    if method in ("sub", "subn"):
        pattern.sub(b"" if isinstance(text, bytes) else "", text)
    elif method == "finditer":
        for _ in pattern.finditer(text):
            pass
    else:
        getattr(pattern, method)(text)


def faults(pattern, method):
    """What takes too long: short texts find the worst ones, longer ones would stop the test where one is quadratic."""
    for text in attacks(pattern, N_TINY):  # one that is exponential would never end with a longer one
        if too_long(lambda text=text: use(pattern, method, text), N_TINY) is not None:
            return [f"{text!r} takes too long"]
    short = sorted(attacks(pattern, N_SCREENED), key=lambda text: -timed(lambda: use(pattern, method, text)))
    for n in LENGTHS:
        for text in dict.fromkeys(grown(text, n) for text in short[:N_WORST]):
            spent = too_long(lambda text=text: use(pattern, method, text), n)
            if spent is not None:
                return [f"{text[:60]!r}.. of {n} characters takes {spent:.3f} s"]
    return []


def grown(text, n):
    """The same kind of text, n characters long: its middle, which repeats itself, again and again."""
    third = len(text) // 3
    middle = text[third : 2 * third]
    return text[:third] + middle * ((n - 2 * third) // max(1, third)) + text[2 * third :]


def test_the_patterns_are_found():
    assert len(PATTERNS) >= 45
    for known in ("tools.clean", "tools.result_text", "rewards.text", "syntax.hermes", "io.redact", "io.terminal"):
        assert any(name.startswith(f"arft_jax.{known}:") for name in PATTERNS), known


@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_is_through_with_a_million_of_its_worst_characters(name):
    assert not faults(*PATTERNS[name])


@pytest.mark.parametrize(
    ("pattern", "method"),
    [
        (r"<\s*/?\s*information\b[^<>]*>?", "sub"),
        (r"(?s)(.*?)<think>(.*?)</think>(.*)", "fullmatch"),
        (r"(?s)<problem>\s*\{(.*?)\}\s*</problem>", "search"),
        (r"<answer>(.*?)</answer>", "search"),
        (r"(\d+)$", "search"),
        (r"\s+$", "sub"),
        (r"(?:x*)*y", "match"),
    ],
)
def test_a_pattern_that_is_worse_than_linear_is_found_out(pattern, method):
    assert faults(re.compile(pattern), method)


# ------------------------------------------------------------------ doors

SPECS = [tool.spec for tool in BUNDLED.values()]
SYNTAXES = {"tags": TagSyntax(SPECS), "hermes": HermesSyntax(SPECS)}
# What a pattern of the doors below looks for, as it begins and as it never ends.
PIECES = (
    "<", "<<", "< ", "</", "<information", "<think>", "</think>", "<think></think>", "<answer>", "</answer>",
    "<search>", "<code>", "<code>```python\n", "```", "```\n", "<problem>", "<problem>{", "{'a'", "{'a',", "'", "}",
    "} ", " ", "\n", "\t", "\r", "\x1b", "\x1b]", "\x1b[", "\x1b[0", "\x1b ", "\x1b]\x07", "\x00", "\x00a", "\u200b",
    "\u202ea", "\ud800", "a ", "the ", "é", "e\u0301\u0316", "\u0301\u0316", "红", "红 ", "<tool_call>", "<tool_call>{",
    "</tool_call>", '{"name":', "[", "secret", "secret=", "api_key ", "://", "sk-", "x", "1",
)  # fmt: skip


def read_in(syntax):
    def read(text):
        SYNTAXES[syntax].parse(text)
        SYNTAXES[syntax].is_well_formed(text)

    return read


def scored_as(kind, target):
    def score(text):
        recorded.format_score(kind, target, text)
        recorded.accuracy_score(kind, target, text)

    return score


def refused_or(read):
    def call(text):
        try:
            read(text)
        except ValueError:
            pass

    return call


DOORS = {
    "a turn in the paper's syntax": read_in("tags"),
    "a turn in the Hermes syntax": read_in("hermes"),
    "the body of <problem>": refused_or(diagnose.read_problems),
    "the body of <code>": refused_or(python_tool.read_code),
    "an answer": lambda text: answers.score_answer(text, ("the red fox",)),
    "an answer of MAT-Coding": lambda text: answers.score_answer(text, ("红色",), chinese=True),
    "a recorded problem": scored_as("coding", "<problem>{'dark'}</problem>"),
    "recorded code": scored_as("coding", "<code>```python\nx\n```</code>"),
    "a recorded search": scored_as("search", "<search>fox</search>"),
    "a thought on a page": lambda text: trajectories.around_thought(text),
    "secrets in a text": lambda text: redact(text, {}),
    "text that is kept whole": lambda text: clean.clean_text(text, N + 1),
}
CAPPED = {
    "a passage": lambda text: format_hits([Hit("", text, 1.0)], 1000),
    "a title": lambda text: format_hits([Hit(text, "", 1.0)], 1000),
    "a tool's text": lambda text: clean.clean_text(text, 1000),
    "a query for a service": remote_search.normalise,
}


def texts(n):
    for piece in PIECES:
        yield piece * (n // len(piece))
        yield (piece + "x ") * (n // (len(piece) + 2))


@pytest.mark.parametrize("door", DOORS)
def test_a_door_takes_sixteen_times_as_long_for_sixteen_times_the_text(door):
    """Linear or better, of the worst text; a quadratic door takes 256 times as long."""
    short = sorted(texts(8_000), key=lambda text: -timed(lambda: DOORS[door](text)))[:3]
    for text in short:
        brief = min(timed(lambda text=text: DOORS[door](text)) for _ in range(5))
        longer = grown(text, 16 * len(text))
        long = min(timed(lambda longer=longer: DOORS[door](longer)) for _ in range(2))
        assert long <= 64 * brief + LIMIT_S / 10, f"{text[:40]!r}: {brief:.4f} s, then {long:.4f} s"


@pytest.mark.parametrize("door", CAPPED)
def test_a_door_that_caps_is_through_with_a_million_characters(door):
    """The cap stands before every pattern: what is beyond it costs nothing."""
    for text in texts(N):
        spent = too_long(lambda text=text: CAPPED[door](text))
        assert spent is None, f"{text[:40]!r}: {spent:.3f} s"
