"""Measures the local search index over synthetic passages: build time, size, latency at 16 callers, recall.

The command arft-bench-search, from a checkout: python launch/bench_search.py --help shows its flags.
"""

import sys

from arft_jax.commands.cli.bench_search import main

if __name__ == "__main__":
    sys.exit(main())
