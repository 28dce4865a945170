"""Times one update, optimiser included, on trajectories of given lengths: padded, packed, prompts once for a group.

The command arft-bench-update, from a checkout: python launch/bench_update.py --help shows its flags.
"""

import sys

from arft_jax.commands.cli.bench_update import main

if __name__ == "__main__":
    sys.exit(main())
