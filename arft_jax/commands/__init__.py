"""What the command lines do, as functions; ``cli`` has their flags.

A command is a module of :mod:`arft_jax.commands.cli` with a ``main``: installed as ``arft-<name>``, run from a checkout
as ``python launch/<module>.py``, and from anywhere as ``python -m arft_jax <name>``.
"""

# Name without the prefix ``arft-``, in the order in which a new user meets them; setup.py installs the same.
COMMANDS = (
    "train",
    "agent",
    "tool",
    "evaluate",
    "serve",
    "score",
    "summary",
    "convert",
    "compile-check",
    "build-index",
    "prepare-data",
    "make-tiny-checkpoint",
    "make-tiny-data",
    "make-data",
    "bench",
    "bench-decode",
    "bench-update",
    "bench-search",
    "bench-serve",
)


def module_name(command: str) -> str:
    """The module whose ``main`` is a command: ``compile-check`` is ``arft_jax.commands.cli.compile_check``."""
    return f"{__name__}.cli.{command.replace('-', '_')}"
