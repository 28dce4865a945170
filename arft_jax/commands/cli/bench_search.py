"""Measures the local search index over synthetic passages: build time, size, latency at 16 callers, recall.

    arft-bench-search --passages=1000000 --format=json

The passages are written to a ``.jsonl`` file and indexed from it as arft-build-index does; the time of writing is
not counted. A million of 100 words take a few minutes and 1.3 GB of disk, which is freed at the end, but for the index
where ``--out=PATH`` names a place to keep it. Bad input: one sentence on standard error, exit status 2.
"""

import json
import pathlib
import tempfile
from collections.abc import Sequence

from absl import flags

from arft_jax.commands import command_line
from arft_jax.io import terminal


def _define(values: flags.FlagValues, argv: Sequence[str]) -> None:
    flags.DEFINE_integer("passages", 1_000_000, "Passages to index.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("questions", 4000, "Questions to ask.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("callers", 16, "Threads that ask at the same time.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("top_k", 4, "Results of a question.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("memory_mb", 512, "Memory of the index writer, MB.", flag_values=values)
    flags.DEFINE_integer("seed", 0, "Of passages and questions.", lower_bound=0, flag_values=values)
    text = "Keep the index here; empty: a temporary folder, removed at the end."
    flags.DEFINE_string("out", "", text, flag_values=values)
    flags.DEFINE_string("format", "text", "json or text.", flag_values=values)


def _bench(f: flags.FlagValues, words: list[str]) -> None:
    if f.format not in ("json", "text"):
        raise ValueError(f"--format must be json or text: got {f.format!r}")
    from arft_jax.tools import search_bench  # after the flags: bad input costs no time

    with tempfile.TemporaryDirectory(prefix="bench-search-") as folder:
        figures = search_bench.run(
            f.out or pathlib.Path(folder) / "index",
            n_passages=f.passages,
            n_questions=f.questions,
            n_callers=f.callers,
            top_k=f.top_k,
            memory_mb=f.memory_mb,
            seed=f.seed,
        )
    if f.format == "json":
        terminal.say(json.dumps(figures))
    else:
        terminal.say("\n".join(f"{name:22} {value:,}" for name, value in figures.items()))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    return command_line.run(__doc__, _define, _bench, arguments)
