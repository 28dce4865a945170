"""Scores a file of predictions as the paper does: F1 and EM with bootstrap intervals.

    arft-score --benchmark=mat_coding --predictions=FILE --format=json

FILE is a JSON list or JSON Lines. A record has ``pred_answer`` (null where none was given), the accepted answers under
``gt``, ``answers``, ``answer`` or ``golden_answers`` (one text or a list) and, where known, ``id`` and ``split``
(simple or hard). The trajectories that a run wrote (``<workdir>/trajectories/*.jsonl``) are read too, and what
arft-evaluate writes, of any benchmark: ``predictions.jsonl``, ``trajectories.jsonl``. One JSON object on standard
output: ``benchmark``, ``n``, ``n_items`` (of the whole benchmark; null for qa), ``missing`` (records without an
answer), ``absent`` (items without a record) and, for ``simple``, ``hard``, ``avg`` (qa: ``avg``), percentages ``f1``,
``em`` and their ``ci95``.
Bad input: one sentence on standard error, exit status 2.
"""

import json
from collections.abc import Sequence

from absl import flags

from arft_jax.commands import command_line
from arft_jax.io import terminal


def _define(values: flags.FlagValues, argv: Sequence[str]) -> None:
    text = "mat_coding, mat_search, qa, a set of text by name; for the files of an evaluation its own benchmark."
    flags.DEFINE_string("benchmark", None, text, flag_values=values)
    text = "File of predictions, JSON list or JSON Lines."
    flags.DEFINE_string("predictions", None, text, flag_values=values)
    flags.DEFINE_string("format", "text", "json or text.", flag_values=values)


def _score(f: flags.FlagValues, words: list[str]) -> None:
    command_line.require(f, "benchmark", "predictions")
    if f.format not in ("json", "text"):
        raise ValueError(f"--format must be json or text: got {f.format!r}")
    from arft_jax.evaluate import scoring

    scores = scoring.score_file(f.predictions, f.benchmark)
    terminal.say(json.dumps(scores) if f.format == "json" else scoring.format_text(scores))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    return command_line.run(__doc__, _define, _score, arguments)
