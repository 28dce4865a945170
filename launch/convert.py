"""Converts weights: Hugging Face directories of Qwen2.5-VL to checkpoints of this package, and back.

The command arft-convert, from a checkout: python launch/convert.py --help shows its flags.
"""

import sys

from arft_jax.commands.cli.convert import main

if __name__ == "__main__":
    sys.exit(main())
