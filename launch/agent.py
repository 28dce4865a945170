"""Asks a trained agent questions over images and prints what it did.

The command arft-agent, from a checkout: python launch/agent.py --help shows its flags.
"""

import sys

from arft_jax.commands.cli.agent import main

if __name__ == "__main__":
    sys.exit(main())
