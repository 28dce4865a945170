"""The ``--config`` flag of the commands: a shipped name or a file, an optional ``:variant``, overrides of keys."""

import re
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from arft_jax.commands import list_keys, shipped, suggest

_IS_CONFIG = re.compile(r"--?config(=.*)?", re.DOTALL)
_IS_WORKDIR = re.compile(r"--?workdir(?:=(.*))?", re.DOTALL)
_IS_OVERRIDE = re.compile(r"--?(?:no)?config\.([^=]+)")
FAILURES = (flags.Error, AttributeError, LookupError, TypeError, ValueError, OSError, SyntaxError)


def with_shipped_names(arguments: Sequence[str]) -> list[str]:
    """The arguments with the name of a shipped configuration behind ``--config`` replaced by its file.

    Raises:
      ValueError: a value that is neither a shipped name nor a path.
    """
    found = list(arguments)
    for i, argument in enumerate(arguments):
        if argument == "--":
            break
        if not _IS_CONFIG.fullmatch(argument):
            continue
        if "=" in argument:
            found[i] = f"--config={shipped.find_config(argument.partition('=')[2])}"
        elif i + 1 < len(arguments):
            found[i + 1] = shipped.find_config(arguments[i + 1])
    return found


def define_config(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """Defines ``--config=NAME|FILE[:VARIANT]``, ``--config.a.b=VALUE`` overrides and ``--list_keys``.

    Args:
      values: where they are defined.
      argv: the command line, the program first: its overrides become flags, checked against the config's keys.
    """
    text = "Name of a shipped configuration, or a file; an optional :VARIANT behind it; --config.KEY=VALUE overrides."
    config_flags.DEFINE_config_file("config", None, text, flag_values=values, lock_config=True, sys_argv=list(argv))
    _define_list_keys(values)


def define_loaded_config(values: flags.FlagValues, argv: Sequence[str], config) -> None:
    """As :func:`define_config`, with a configuration that is there already: ``--config.a.b=VALUE`` overrides alone."""
    text = "--config.KEY=VALUE overrides a key of the run."
    config_flags.DEFINE_config_dict("config", config, text, flag_values=values, lock_config=True, sys_argv=list(argv))
    _define_list_keys(values)


def define_config_or_workdir(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """Defines ``--workdir``, whose run has its own configuration, and ``--config`` for where it is not given.

    Raises:
      ValueError: both are given, or a work directory that holds no run.
    """
    text = "Work directory of the run whose agent answers; its configuration is that of the run."
    flags.DEFINE_string("workdir", "", text, flag_values=values)
    workdir = _workdir(argv)
    if not workdir:
        define_config(values, argv)
        return
    if any(_IS_CONFIG.fullmatch(argument) for argument in argv):
        raise ValueError("--workdir has the run's configuration: --config may not be given too")
    from arft_jax.train.run_config import load_run_config

    define_loaded_config(values, argv, load_run_config(workdir))


def _workdir(argv: Sequence[str]) -> str:
    """The value of --workdir; empty where it is not given."""
    for i, argument in enumerate(argv):
        if match := _IS_WORKDIR.fullmatch(argument):
            return match.group(1) if match.group(1) is not None else "".join(argv[i + 1 : i + 2])
    return ""


def _define_list_keys(values: flags.FlagValues) -> None:
    text = "Print every configuration key with default and comment, marking what --config changes, and end."
    flags.DEFINE_bool("list_keys", False, text, flag_values=values)


def check_loaded(values: flags.FlagValues) -> None:
    """Raises what loading the file of ``--config`` met: ml_collections keeps it until the first use."""
    if "config" in values:
        getattr(values["config"].value, "keys", None)


def unknown_flag(name: str, values: flags.FlagValues) -> str:
    """The sentence about a flag that there is not, with the nearest flag, or key behind ``--config.``."""
    if name.startswith("config.") and "config" in values:
        return f"--config must be given where --{name} is"
    near = suggest.nearest(name, [flag for flag in values if not flag.startswith("config.")])
    words = [f"--{near}"] if near else []
    if not near and "config" in values:
        keys = suggest.nearest_keys(name, list_keys.config_keys())
        words = [f"--config.{key}" for key in keys]
    asked = f"; did you mean {' or '.join(words)}?" if words else ""
    return f"Unknown command line flag {name!r}{asked}"


def unknown_key(argv: Sequence[str]) -> str:
    """The sentence about the first override of a key that there is not; empty where every key is known."""
    keys = list_keys.config_keys()
    for argument in argv:
        match = _IS_OVERRIDE.match(argument)
        name = re.sub(r"\[.*", "", match.group(1)) if match else ""
        if name and name not in keys and not any(key.startswith(f"{name}.") for key in keys):
            return f"the configuration has no key {name!r}{suggest.question(suggest.nearest_keys(name, keys))}"
    return ""


def sentence(error: BaseException) -> str:
    """What a person needs of an error that may hold another error or a whole traceback."""
    while error.args and isinstance(error.args[0], BaseException):
        error = error.args[0]
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    if isinstance(error, KeyError):
        key = (re.findall(r"['\"]([^'\"]+)['\"]", text) or [text])[0]
        near = re.findall(r'Did you mean "(\w+)"', text) or suggest.nearest_keys(key, list_keys.config_keys())
        return f"the configuration has no key {key!r}{suggest.question(near)}"
    if isinstance(error, OSError):
        reason = lines[-1].removeprefix("Configuration is not available because of an earlier failure to load: ")
        paths = re.findall(r"No such file or directory: '([^']+)'", reason)
        return f"the configuration file must be readable: {reason}{shipped.hint(paths[0]) if paths else ''}"
    if any(line.startswith("Traceback") for line in lines):
        return re.sub(r"^[\w.]+: ", "", lines[-1])
    return " ".join(lines)
