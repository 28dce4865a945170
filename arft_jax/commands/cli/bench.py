"""Times this library and peers on one shape, side by side, and prints the ratios.

    arft-bench --config=bench_cpu --against=transformers,tunix --format=json

Each peer needs an environment of its own with its packages (``--transformers_python``, ``--tunix_python``, or the
variables ARFT_TRANSFORMERS_PYTHON, ARFT_TUNIX_PYTHON); what it runs lies in ``launch/peers`` of a checkout. One line a
figure goes to standard error as it is done, the whole to standard output. Bad input: one sentence, exit status 2.
"""

import json
import pathlib
from collections.abc import Sequence

from absl import flags

from arft_jax.commands import command_line, config_flag
from arft_jax.commands.cli import bench_peers
from arft_jax.io import terminal

_NAMES = ("transformers", "tunix")


def _define(values: flags.FlagValues, argv: Sequence[str]) -> None:
    config_flag.define_config(values, argv)
    bench_peers.define_peers(values, _NAMES)
    flags.DEFINE_list("figures", [], "What to measure; empty: everything.", flag_values=values)
    flags.DEFINE_integer("repeats", 3, "Rounds of each figure.", flag_values=values)
    flags.DEFINE_bool("drill", True, "Hold late and dead tools against instant ones.", flag_values=values)
    text = "PNG of one rollout's slots over time; empty: <workdir>/timeline.png."
    flags.DEFINE_string("picture", "", text, flag_values=values)
    flags.DEFINE_enum("format", "text", ("text", "json"), "Of the output.", flag_values=values)


def _bench(f: flags.FlagValues, words: list[str]) -> None:
    command_line.require(f, "config")
    peers = bench_peers.chosen_peers(f, _NAMES, "peer_{}.py")
    from arft_jax.bench import run  # after the flags: bad input costs no import of jax

    result = run.bench(
        f.config,
        against=peers,
        figures=f.figures or tuple(run.UNITS),
        repeats=f.repeats,
        drill=f.drill,
        picture=f.picture or str(pathlib.Path(f.config.workdir) / "timeline.png"),
    )
    terminal.say(json.dumps(result) if f.format == "json" else run.format_text(result))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    return command_line.run(__doc__, _define, _bench, arguments)
