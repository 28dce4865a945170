"""Prepares downloaded data sets for TFDS, without TensorFlow; counts and names the records that are bad.

The command arft-prepare-data, from a checkout: python launch/prepare_data.py --help shows its flags.
"""

import sys

from arft_jax.commands.cli.prepare_data import main

if __name__ == "__main__":
    sys.exit(main())
