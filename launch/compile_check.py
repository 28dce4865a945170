"""Compiles every program of a run for hardware that need not be here, and says what fits.

The command arft-compile-check, from a checkout: python launch/compile_check.py --help shows its flags.
"""

import sys

from arft_jax.commands.cli.compile_check import main

if __name__ == "__main__":
    sys.exit(main())
