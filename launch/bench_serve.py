"""Times a server under many clients beside the rollout engine on the same requests.

The command arft-bench-serve, from a checkout: python launch/bench_serve.py --help shows its flags.
"""

import sys

from arft_jax.commands.cli.bench_serve import main

if __name__ == "__main__":
    sys.exit(main())
