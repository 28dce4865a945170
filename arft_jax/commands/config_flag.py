"""The ``--config`` flag of the command lines: a file, an optional ``:variant``, overrides of single keys."""

import re
import sys

from absl import app, flags, logging
from ml_collections import config_flags


def define_config() -> flags.FlagHolder:
    """Defines ``--config=FILE[:VARIANT]`` and ``--config.a.b=VALUE`` overrides, checked against the config's keys."""
    return config_flags.DEFINE_config_file(
        "config", None, "configuration file, with an optional :variant", lock_config=True
    )


def _sentence(error: BaseException) -> str:
    """What a person needs of an error that may hold another error or a whole traceback."""
    while error.args and isinstance(error.args[0], BaseException):
        error = error.args[0]
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    if isinstance(error, KeyError):
        key = (re.findall(r"['\"]([^'\"]+)['\"]", text) or [text])[0]
        near = re.findall(r'Did you mean "(\w+)"', text)
        return f"the configuration has no key {key!r}" + (f"; did you mean {near[0]!r}?" if near else "")
    if isinstance(error, OSError):
        reason = lines[-1].removeprefix("Configuration is not available because of an earlier failure to load: ")
        return f"the configuration file must be readable: {reason}"
    if any(line.startswith("Traceback") for line in lines):
        return re.sub(r"^[\w.]+: ", "", lines[-1])
    return " ".join(lines)


def parse_or_exit(argv: list[str]) -> list[str]:
    """Parses the flags; a wrong one costs one sentence and exit status 2.

    Unknown keys, values of a wrong type and config files that are missing or refuse their variant end up here.
    """
    try:
        rest = flags.FLAGS(argv)
        getattr(flags.FLAGS["config"].value, "keys", None)  # a file that could not be loaded says so at its first use
        return rest
    except (flags.Error, AttributeError, LookupError, TypeError, ValueError, OSError, SyntaxError) as error:
        print(f"error: {_sentence(error)}", file=sys.stderr)
        sys.exit(2)


def run(main) -> None:
    """absl's app.run with :func:`parse_or_exit` in place of its own parser, and libraries kept to warnings."""
    logging.set_verbosity(logging.WARNING)
    app.run(main, flags_parser=parse_or_exit)
