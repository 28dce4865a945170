"""``python -m arft_jax`` lists the commands; ``python -m arft_jax NAME ...`` runs one of them."""

import importlib
import sys

from arft_jax.commands import COMMANDS, module_name, suggest
from arft_jax.io import terminal


def main(arguments: list[str]) -> int:
    """Runs the command that the first argument names, or prints the list of commands.

    Returns:
      The exit status: the command's own, or 2 where there is no such command.
    """
    if not arguments or arguments[0] in ("help", "--help", "-h"):
        terminal.say(
            "Commands, installed as arft-NAME; NAME --help shows the flags, train --list_keys the configuration:\n"
        )
        for name in COMMANDS:
            about = importlib.import_module(module_name(name)).__doc__.split("\n")[0]
            terminal.say(f"  arft-{name:22} {about}")
        return 0
    name = arguments[0].removeprefix("arft-").replace("_", "-")
    if name not in COMMANDS:
        near = suggest.nearest(name, COMMANDS)
        asked = suggest.question([near] if near else [])
        terminal.say(f"error: there is no command {arguments[0]!r}{asked} ({', '.join(COMMANDS)})", file=sys.stderr)
        return 2
    return importlib.import_module(module_name(name)).main(arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
