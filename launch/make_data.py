"""Makes tasks of the paper's kind from pictures of one's own: coding tasks with its faults, search tasks with a corpus.

The command arft-make-data, from a checkout: python launch/make_data.py --help shows its flags.
"""

import sys

from arft_jax.commands.cli.make_data import main

if __name__ == "__main__":
    sys.exit(main())
