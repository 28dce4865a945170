"""Scores a file of predictions as the paper does: F1 and EM with bootstrap intervals.

The command arft-score, from a checkout: python launch/score.py --help shows its flags.
"""

import sys

from arft_jax.commands.cli.score import main

if __name__ == "__main__":
    sys.exit(main())
