"""What is told on a terminal holds no character that commands it, whoever wrote the text."""

import ast
import io
import os
import subprocess
import sys
import unicodedata

import pytest

from arft_jax.commands import command_line
from arft_jax.io import terminal

EVIL = "\x1b]0;title\x07\x1b[2J\x9b1m\rgone \u202eevil\u2066 \ud800 \u2028\U000e0041"
SHOWN = r"\x1b]0;title\x07\x1b[2J\x9b1m\rgone \u202eevil\u2066 \ud800 \u2028\U000e0041"
# Processes of their own whose standard output is read by a program, not by a person.
PRINTS = {"arft_jax/io/terminal.py", "arft_jax/tools/ddgs_child.py", "arft_jax/tools/sandbox/helpers.py"}


def test_what_commands_a_terminal_is_written_out_and_the_rest_stays():
    assert terminal.visible(EVIL) == SHOWN
    plain = "a\tb\nñ 北京 👩\u200d🔬 می\u200cخواهم |x|"
    assert terminal.visible(plain) == plain
    assert terminal.visible("one\r\ntwo") == "one\ntwo"


def test_no_control_no_turning_mark_and_no_half_of_a_pair_is_left():
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    left = terminal.visible(every)
    assert {c for c in left if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")} == {"\t", "\n"}
    turning = ("LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI")
    assert not [c for c in left if unicodedata.bidirectional(c) in turning]
    left.encode()


def test_a_text_is_printed_visibly():
    out = io.StringIO()
    terminal.say(EVIL, out)
    assert out.getvalue() == SHOWN + "\n"


def test_a_command_tells_what_is_wrong_without_raw_characters(capsys):
    def work(values, words):
        raise ValueError(f"a file must exist: got {EVIL}")

    assert command_line.run("About.", lambda values, argv: None, work, []) == 2
    assert capsys.readouterr().err == f"error: a file must exist: got {SHOWN}\n"


@pytest.mark.parametrize("end", ["", "raise RuntimeError(evil)"])
def test_the_log_warnings_and_uncaught_errors_are_visible(end):
    code = f"""
import warnings
from absl import logging
from arft_jax.io import terminal
terminal.guard(); terminal.guard()
evil = {EVIL!a}
warnings.warn(evil)
try:
    raise ValueError(evil)
except ValueError:
    logging.exception("a tool raised: %s", evil)
{end}
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, env=os.environ | {"PYTHONUTF8": "1"})
    told = ran.stderr.decode()
    assert told.count(SHOWN) == (4 if end else 3) and (ran.returncode == 1) == bool(end)
    assert not [c for c in told if unicodedata.category(c) in ("Cc", "Cf", "Cs") and c != "\n"]


def test_nothing_else_in_the_package_prints(repo_root):
    found = set()
    for folder in ("arft_jax", "launch"):
        for path in sorted((repo_root / folder).rglob("*.py")):
            name = path.relative_to(repo_root).as_posix()
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
                if called == "print" or called in ("sys.stdout.write", "sys.stderr.write"):
                    found.add(name)
    assert {name for name in found if not name.startswith(("arft_jax/testing/", "launch/peers/"))} == PRINTS
