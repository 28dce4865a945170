"""Prints the table over several finished runs (seeds): means, and the paired gain with its 95 % interval.

    arft-summary --runs=runs/seed0,runs/seed1,runs/seed2 [--format=text|markdown|json]
    arft-summary --evaluations=OUT,OUT_NO_TOOLS,OUT_BLANK [--format=text|markdown|json]

The runs must be of one configuration: only the seed and the name may differ. Evaluations (the --out of arft-evaluate)
are set beside one another, a row each; those of one benchmark must be of the same items.
"""

import json
from collections.abc import Sequence

from absl import flags

from arft_jax.commands import command_line
from arft_jax.io import terminal


def _define(values: flags.FlagValues, argv: Sequence[str]) -> None:
    flags.DEFINE_list("runs", None, "Work directories of finished runs.", flag_values=values)
    flags.DEFINE_list("evaluations", None, "Folders of finished evaluations, in their place.", flag_values=values)
    flags.DEFINE_enum("format", "text", ("text", "markdown", "json"), "What to print.", flag_values=values)


def _summarise(f: flags.FlagValues, words: list[str]) -> None:
    if words or bool(f.runs) == bool(f.evaluations):
        raise ValueError("--runs=DIR,DIR,... must be given, or --evaluations, and nothing else without a flag")
    if f.evaluations:
        from arft_jax.report import side_by_side

        terminal.say(side_by_side.render(side_by_side.read(f.evaluations), f.format))
        return
    from arft_jax.report import summary

    benchmarks = summary.summarise_runs(f.runs)
    terminal.say(json.dumps(benchmarks) if f.format == "json" else summary.render(benchmarks, f.format))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    return command_line.run(__doc__, _define, _summarise, arguments, words=True)
