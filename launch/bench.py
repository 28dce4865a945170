"""Times this library and peers on one shape, side by side, and prints the ratios.

The command arft-bench, from a checkout: python launch/bench.py --help shows its flags.
"""

import sys

from arft_jax.commands.cli.bench import main

if __name__ == "__main__":
    sys.exit(main())
