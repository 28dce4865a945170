"""Writes a small data directory in the layout of the MAT benchmark: something to try the configs of real models on.

    arft-make-tiny-data --out=DIR [--seed=1] [--n_train=16] [--n_test=8]

mat_coding/ and mat_search/, each with train.json, test.json and images; mat_search/corpus.jsonl. The items are those of
the self-made tasks; the layout is described in arft_jax/data/mat.py. Bad input: one sentence, exit status 2.
"""

import os
from collections.abc import Sequence

from absl import flags

from arft_jax.commands import command_line
from arft_jax.io import terminal


def _define(values: flags.FlagValues, argv: Sequence[str]) -> None:
    flags.DEFINE_string("out", "", "Directory to write, new or empty.", flag_values=values)
    flags.DEFINE_integer("seed", 0, "Of the items and the corpus.", lower_bound=0, flag_values=values)
    flags.DEFINE_integer("n_train", 16, "Training items of each task set.", flag_values=values)
    text = "Test items of each task set, simple and hard ones."
    flags.DEFINE_integer("n_test", 8, text, flag_values=values)


def _make(f: flags.FlagValues, words: list[str]) -> None:
    command_line.require(f, "out")
    from arft_jax.commands.tiny_data import make_tiny_data

    make_tiny_data(f.out, seed=f.seed, n_train=f.n_train, n_test=f.n_test)
    terminal.say(f"wrote {f.out}: {', '.join(sorted(os.listdir(f.out)))}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    return command_line.run(__doc__, _define, _make, arguments)
