"""How every command begins and ends: flags of its own, help, one sentence where something is wrong, an exit status.

Flags are defined when a command starts and in a FlagValues of its own, so that commands do not clash in one process
and importing a command costs nothing.
"""

import os
import re
import sys
import textwrap
from collections.abc import Callable, Sequence

from absl import flags, logging

from arft_jax.commands import config_flag, list_keys
from arft_jax.io import terminal

Define = Callable[[flags.FlagValues, Sequence[str]], None]
Work = Callable[[flags.FlagValues, list[str]], int | None]


def run(about: str, define: Define, work: Work, arguments: Sequence[str] | None = None, words: bool = False) -> int:
    """Parses the flags of a command and does its work.

    Args:
      about: what ``--help`` says, the docstring of the command's module.
      define: defines the flags; takes where, and the command line with the program first.
      work: takes the parsed flags and the arguments that are no flags; returns an exit status, None for 0.
      arguments: those of the command line, without the program; None: of this process.
      words: whether arguments that are no flags are allowed.

    Returns:
      The exit status: 2 where the command line or the input is wrong, after one sentence on standard error.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    logging.set_verbosity(logging.WARNING)
    terminal.guard()
    flags.FLAGS.mark_as_parsed()  # libraries read flags of their own
    values = flags.FlagValues()
    try:
        rest = _parse(define, values, arguments, words)
        if values.help:
            _show(help_text(about, values))
            return 0
        if "list_keys" in values and values.list_keys:
            _show(list_keys.format_keys(values.config))
            return 0
        if rest and not words:
            raise ValueError(f"every argument must be a --flag=value: got {rest[0]!r}")
        return work(values, rest) or 0
    except ValueError as error:
        terminal.say(f"error: {error}", file=sys.stderr)
        return 2


def _show(text: str) -> None:
    """Prints to a reader that may leave before the end, as ``head`` does."""
    try:
        terminal.say(text)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to flush at the exit


def _parse(define: Define, values: flags.FlagValues, arguments: list[str], words: bool) -> list[str]:
    flags.DEFINE_bool("help", False, "Print this and end.", short_name="h", flag_values=values)
    argv = [sys.argv[0] or "arft", *config_flag.with_shipped_names(arguments)]
    try:
        define(values, argv)
        rest = values(argv)[1:]
        config_flag.check_loaded(values)
    except flags.UnrecognizedFlagError as error:
        raise ValueError(config_flag.unknown_flag(error.flagname, values)) from error
    except config_flag.FAILURES as error:
        raise ValueError(config_flag.unknown_key(argv) or config_flag.sentence(error)) from error
    return rest


def require(values: flags.FlagValues, *names: str) -> None:
    """Raises a ValueError for the first of these flags that was not given."""
    for name in names:
        if not values[name].value:
            raise ValueError(f"--{name} must be given")


def help_text(about: str, values: flags.FlagValues) -> str:
    """The command's description and its flags, as defined."""
    lines = [about.strip(), "", "flags:"]
    for name in sorted(flag for flag in values if not flag.startswith("config.")):
        flag = values[name]
        if name != flag.name:  # the short form of another one
            continue
        choices = getattr(flag.parser, "enum_values", None)
        shape = f"--{name}" if flag.boolean else f"--{name}={'|'.join(choices) if choices else '...'}"
        # absl writes choices in front, which the shape shows, and behind that a list may be repeated.
        words = re.sub(r"^<[^>]*>: ", "", flag.help).split(";\n")[0]
        if flag.default not in (None, "", False, []) and name != "config":
            words += f" (default: {flag.default_as_str.strip(chr(39))})"
        lines += textwrap.wrap(f"{shape:22} {words}", 110, initial_indent="  ", subsequent_indent=" " * 25)
    return "\n".join(lines)


def on_cpu() -> None:
    """Keeps JAX off accelerators where the environment does not choose; to be called before jax is imported."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
