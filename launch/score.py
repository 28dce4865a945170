"""Scores a file of predictions as the paper does: F1 and EM with bootstrap intervals.

    python launch/score.py --benchmark=mat_coding --predictions=FILE --format=json

One JSON object on standard output: ``benchmark``, ``n``, ``missing`` and, for ``simple``, ``hard``, ``avg``
(qa: ``avg``), percentages ``f1``, ``em`` and their ``ci95``. Bad input: one sentence on standard error, exit status 2.
"""

import json
import sys

from absl import app, flags

from arft_jax.evaluate import scoring

_BENCHMARK = flags.DEFINE_string("benchmark", None, f"One of {', '.join(scoring.BENCHMARKS)}.")
_PREDICTIONS = flags.DEFINE_string("predictions", None, "File of predictions, JSON list or JSON Lines.")
_FORMAT = flags.DEFINE_string("format", "text", "json or text.")


def main(argv: list[str]) -> int:
    app.define_help_flags()
    try:
        unread = flags.FLAGS(argv)[1:]
        if unread:
            raise ValueError(f"every argument must be a --flag=value: got {unread[0]!r}")
        for flag in (_BENCHMARK, _PREDICTIONS):
            if not flag.value:
                raise ValueError(f"--{flag.name} must be given")
        if _FORMAT.value not in ("json", "text"):
            raise ValueError(f"--format must be json or text: got {_FORMAT.value!r}")
        scores = scoring.score_file(_PREDICTIONS.value, _BENCHMARK.value)
    except (ValueError, flags.Error) as error:
        print(f"score.py: {error}", file=sys.stderr)
        return 2
    print(json.dumps(scores) if _FORMAT.value == "json" else scoring.format_text(scores))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
