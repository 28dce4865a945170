"""Trains a visual agent: warm start, GRPO with live tools, evaluation before, during and after.

    arft-train --config=tiny_cpu [--config.seed=1 --config.workdir=runs/seed1]
    arft-train --config=tiny_cpu:smoke --list_keys

--config takes the name of a shipped configuration or a file. The same command resumes an interrupted run. Exit status
2: the command or the configuration is wrong; 128 plus the signal's number: a signal asked the run to stop, and it
saved what it had.
"""

import sys
from collections.abc import Sequence

from absl import flags

from arft_jax.commands import command_line, config_flag
from arft_jax.io import terminal


def _train(f: flags.FlagValues, words: list[str]) -> int:
    from arft_jax.config_checks import validate

    command_line.require(f, "config")
    validate(f.config)
    from arft_jax.train.preemption import Stopped
    from arft_jax.train.trainer import train  # after the checks: a wrong key costs no import of jax

    try:
        train(f.config)
    except Stopped as stop:
        terminal.say(stop, file=sys.stderr)
        return stop.code
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    return command_line.run(__doc__, config_flag.define_config, _train, arguments)
