"""Times decode at a published size behind long caches, against the memory's bound and peers, on the first device.

The command arft-bench-decode, from a checkout: python launch/bench_decode.py --help shows its flags.
"""

import sys

from arft_jax.commands.cli.bench_decode import main

if __name__ == "__main__":
    sys.exit(main())
