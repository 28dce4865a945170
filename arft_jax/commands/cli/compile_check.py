"""Compiles every program of a run for hardware that need not be here, and says what fits.

    arft-compile-check --config=tiny_cpu --topology='tpu v5e:4x4'

TPU programs need the package libtpu, GPU programs jax-cuda12-plugin and jax-cuda12-pjrt; neither needs the hardware.
Exit status 1 where something does not fit, with the config keys that would help. Bad input: one sentence, exit
status 2.
"""

import json
import os
from collections.abc import Sequence

from absl import flags

from arft_jax.commands import command_line, config_flag
from arft_jax.io import terminal


def _define(values: flags.FlagValues, argv: Sequence[str]) -> None:
    config_flag.define_config(values, argv)
    text = "Hardware, as 'tpu v5e:8x8' or 'gpu h100:8'; empty: config.hardware."
    flags.DEFINE_string("topology", "", text, flag_values=values)
    flags.DEFINE_enum("format", "table", ("table", "json"), "What is printed.", flag_values=values)


def _check(f: flags.FlagValues, words: list[str]) -> int:
    command_line.require(f, "config")
    os.environ["JAX_PLATFORMS"] = "cpu"  # the compilers are asked for by name; no device is touched
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # several checks may run at once: none holds a chip
    from arft_jax.compile_check import check as compile_check  # after the flags: bad input costs no import of jax
    from arft_jax.compile_check import report

    shown = report.row_printer() if f.format == "table" else None
    result = compile_check.check(f.config, f.topology, shown)
    terminal.say(json.dumps(result, indent=1) if f.format == "json" else report.summary(result))
    return 1 if result["problems"] else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    return command_line.run(__doc__, _define, _check, arguments)
