"""Times decode at a published size behind long caches, against the memory's bound and peers, on the first device.

    arft-bench-decode --size=3b --contexts=2048,4096,8192 --slots=64 --against=transformers --format=json
    arft-bench-decode --size=tiny --contexts=32,64 --slots=4 --steps=8      (a CPU: whether it runs)

Random bfloat16 weights, a cache of random values. A peer needs an environment of its own with its packages
(``--transformers_python``, or the variable ARFT_TRANSFORMERS_PYTHON) and shares the GPU's memory; it runs as many of
the rows as the rest holds. A line a context length goes to standard error as it is done, the whole to standard output.
Bad input: one sentence, exit status 2.
"""

import json
import os
from collections.abc import Sequence

from absl import flags

from arft_jax.commands import command_line
from arft_jax.commands.cli import bench_peers
from arft_jax.io import terminal

_NAMES = ("transformers",)


def _define(values: flags.FlagValues, argv: Sequence[str]) -> None:
    text = "Of the model: a published one, 3b, 7b, 32b or 72b, or tiny."
    flags.DEFINE_string("size", "3b", text, flag_values=values)
    text = "Tokens of a row when it decodes."
    flags.DEFINE_list("contexts", ["2048", "4096", "8192"], text, flag_values=values)
    flags.DEFINE_integer("slots", 64, "Rows that decode together.", flag_values=values)
    flags.DEFINE_integer("steps", 64, "Tokens of a decode call.", flag_values=values)
    flags.DEFINE_integer("repeats", 5, "Timed decode calls of each side.", flag_values=values)
    bench_peers.define_peers(values, _NAMES)
    flags.DEFINE_string("format", "text", "Of the output: text or json.", flag_values=values)


def _bench(f: flags.FlagValues, words: list[str]) -> None:
    if f.format not in ("text", "json"):
        raise ValueError(f"format must be text or json: got {f.format!r} (--format)")
    peers = bench_peers.chosen_peers(f, _NAMES, "peer_{}_decode.py")
    if not all(context.isdecimal() for context in f.contexts):
        raise ValueError(f"contexts must be whole numbers: got {','.join(f.contexts)} (--contexts)")
    # JAX would take most of a GPU at once, and a peer be left without.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    from arft_jax.bench import decode  # after the flags: bad input costs no import of jax

    contexts = [int(context) for context in f.contexts]
    sizes = dict(n_slots=f.slots, n_steps=f.steps, repeats=f.repeats)
    result = decode.bench(f.size, contexts, against=peers, **sizes)
    terminal.say(json.dumps(result) if f.format == "json" else decode.format_text(result))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    return command_line.run(__doc__, _define, _bench, arguments)
