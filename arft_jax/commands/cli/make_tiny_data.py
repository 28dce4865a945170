"""Writes a small data directory in the layout of the MAT benchmark: something to try the configs of real models on.

    arft-make-tiny-data --out=DIR [--seed=1] [--n_train=16] [--n_test=8] [--n_chains=8]

mat_coding/ and mat_search/, each with train.json, test.json and images; mat_search/corpus.jsonl; with --n_chains also
mat_training/ with recorded steps, and then without train.json, as MAT is published. The items are those of the
self-made tasks; the layouts are described in arft_jax/data/mat.py and recorded_steps.py. Bad input: one sentence, exit
status 2.
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
    text = "Recorded chains of each agent, in the place of train.json; 0: none."
    flags.DEFINE_integer("n_chains", 0, text, lower_bound=0, flag_values=values)


def _make(f: flags.FlagValues, words: list[str]) -> None:
    command_line.require(f, "out")
    from arft_jax.commands.tiny_data import make_tiny_data

    make_tiny_data(f.out, seed=f.seed, n_train=f.n_train, n_test=f.n_test, n_chains=f.n_chains)
    terminal.say(f"wrote {f.out}: {', '.join(sorted(os.listdir(f.out)))}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    return command_line.run(__doc__, _define, _make, arguments)
