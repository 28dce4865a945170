"""Builds a search index: of passages, or of a folder of captioned images.

The command arft-build-index, from a checkout: python launch/build_index.py --help shows its flags.
"""

import sys

from arft_jax.commands.cli.build_index import main

if __name__ == "__main__":
    sys.exit(main())
