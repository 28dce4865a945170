"""Trains a visual agent: warm start, GRPO with live tools, evaluation before, during and after.

    python launch/train.py --config=configs/tiny_cpu.py [--config.seed=1 --config.workdir=runs/seed1]

The same command resumes an interrupted run. Exit status 2: the command or the configuration is wrong.
"""

import sys

from absl import flags

from arft_jax.commands import config_flag
from arft_jax.config_checks import validate

_CONFIG = config_flag.define_config()
flags.mark_flag_as_required("config")


def main(argv: list[str]) -> None:
    try:
        if len(argv) > 1:
            raise ValueError(f"every argument must be a --flag=value: got {argv[1]!r}")
        if not _CONFIG.value:
            raise ValueError("--config must be given")
        validate(_CONFIG.value)
        from arft_jax.train.trainer import train  # after the checks: a wrong key costs no import of jax

        train(_CONFIG.value)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    config_flag.run(main)
