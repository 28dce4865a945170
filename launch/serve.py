"""Serves a trained agent behind the OpenAI chat completions API.

The command arft-serve, from a checkout: python launch/serve.py --help shows its flags.
"""

import sys

from arft_jax.commands.cli.serve import main

if __name__ == "__main__":
    sys.exit(main())
