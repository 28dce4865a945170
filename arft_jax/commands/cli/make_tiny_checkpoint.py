"""Writes a small random Qwen2.5-VL as a Hugging Face directory: something to try loaders and commands on.

    arft-make-tiny-checkpoint --out=DIR [--dtype=float32] [--tied] [--seed=1]

The layout is that of the published checkpoints: flat config.json, sharded safetensors with an index, tokenizer and
processor files. Needs no torch. Bad input: one sentence, exit status 2.
"""

import os
from collections.abc import Sequence

from absl import flags

from arft_jax.commands import command_line
from arft_jax.io import terminal


def _define(values: flags.FlagValues, argv: Sequence[str]) -> None:
    flags.DEFINE_string("out", "", "Directory to write, new or empty.", flag_values=values)
    flags.DEFINE_string("dtype", "bfloat16", "Type on disk: float32 or bfloat16.", flag_values=values)
    text = "Tie the unembedding to the embedding, as in the 3B model."
    flags.DEFINE_bool("tied", False, text, flag_values=values)
    flags.DEFINE_integer("seed", 0, "Of the weights.", lower_bound=0, flag_values=values)


def _make(f: flags.FlagValues, words: list[str]) -> None:
    command_line.require(f, "out")
    command_line.on_cpu()
    from arft_jax.io.tiny_checkpoint import make_tiny_checkpoint

    make_tiny_checkpoint(f.out, seed=f.seed, dtype=f.dtype, tied=f.tied)
    terminal.say(f"wrote {f.out}: {', '.join(sorted(os.listdir(f.out)))}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    return command_line.run(__doc__, _define, _make, arguments)
