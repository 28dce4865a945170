"""Trains a visual agent: warm start, GRPO with live tools, evaluation before, during and after.

The command arft-train, from a checkout: python launch/train.py --help shows its flags.
"""

import sys

from arft_jax.commands.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
