"""The ``--config`` flag of the command lines: a file, an optional ``:variant``, overrides of single keys."""

import sys

from absl import app, flags, logging
from ml_collections import config_flags


def define_config() -> flags.FlagHolder:
    """Defines ``--config=FILE[:VARIANT]`` and ``--config.a.b=VALUE`` overrides, checked against the config's keys."""
    return config_flags.DEFINE_config_file(
        "config", None, "configuration file, with an optional :variant", lock_config=True
    )


def parse_or_exit(argv: list[str]) -> list[str]:
    """Parses the flags; a wrong one costs one sentence and exit status 2.

    Unknown keys, values of a wrong type and config files that refuse their variant end up here.
    """
    try:
        return flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, FileNotFoundError) as error:
        text = " ".join(str(error.args[0] if isinstance(error, KeyError) else error).split())
        print(f"error: {text}", file=sys.stderr)
        sys.exit(2)


def run(main) -> None:
    """absl's app.run with :func:`parse_or_exit` in place of its own parser, and libraries kept to warnings."""
    logging.set_verbosity(logging.WARNING)
    app.run(main, flags_parser=parse_or_exit)
