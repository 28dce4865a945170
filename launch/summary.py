"""The table over several finished runs (seeds): means, and the paired gain with its 95 % interval.

python launch/summary.py --runs=runs/seed0,runs/seed1,runs/seed2 [--format=text|markdown|json]
"""

import json
import sys

from absl import app, flags

from arft_jax.report import summary

_RUNS = flags.DEFINE_list("runs", None, "Work directories of finished runs.")
_FORMAT = flags.DEFINE_enum("format", "text", ("text", "markdown", "json"), "What to print.")


def main(argv: list[str]) -> None:
    try:
        if len(argv) > 1 or not _RUNS.value:
            raise ValueError("--runs=DIR,DIR,... must be given, and nothing else without a flag")
        benchmarks = summary.summarise_runs(_RUNS.value)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(json.dumps(benchmarks) if _FORMAT.value == "json" else summary.render(benchmarks, _FORMAT.value), end="\n")


if __name__ == "__main__":
    app.run(main)
