"""Writes a small data directory in the layout of the MAT benchmark: something to try the configs of real models on.

The command arft-make-tiny-data, from a checkout: python launch/make_tiny_data.py --help shows its flags.
"""

import sys

from arft_jax.commands.cli.make_tiny_data import main

if __name__ == "__main__":
    sys.exit(main())
