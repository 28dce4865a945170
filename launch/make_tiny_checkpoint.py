"""Writes a small random Qwen2.5-VL as a Hugging Face directory: something to try loaders and commands on.

The command arft-make-tiny-checkpoint, from a checkout: python launch/make_tiny_checkpoint.py --help shows its flags.
"""

import sys

from arft_jax.commands.cli.make_tiny_checkpoint import main

if __name__ == "__main__":
    sys.exit(main())
