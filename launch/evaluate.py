"""Evaluates a policy on benchmarks and prints the paper's table with its row in it.

The command arft-evaluate, from a checkout: python launch/evaluate.py --help shows its flags.
"""

import sys

from arft_jax.commands.cli.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
