"""Prints the table over several finished runs (seeds): means, and the paired gain with its 95 % interval.

The command arft-summary, from a checkout: python launch/summary.py --help shows its flags.
"""

import sys

from arft_jax.commands.cli.summary import main

if __name__ == "__main__":
    sys.exit(main())
