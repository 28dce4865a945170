"""Runs one tool call by hand and prints what the policy would see.

The command arft-tool, from a checkout: python launch/tool.py --help shows its flags.
"""

import sys

from arft_jax.commands.cli.tool import main

if __name__ == "__main__":
    sys.exit(main())
