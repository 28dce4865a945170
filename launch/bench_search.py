"""Measures the local search index over synthetic passages: build time, size, latency at 16 callers, recall.

    python launch/bench_search.py --passages=1000000 --format=json

The passages are written to a ``.jsonl`` file and indexed from it as launch/build_index.py does; the time of writing is
not counted. A million of 100 words take a few minutes and 1.3 GB of disk, which is freed at the end, but for the index
where ``--out=PATH`` names a place to keep it. Bad input: one sentence on standard error, exit status 2.
"""

import json
import pathlib
import sys
import tempfile

from absl import app, flags

_PASSAGES = flags.DEFINE_integer("passages", 1_000_000, "Passages to index.", lower_bound=1)
_QUESTIONS = flags.DEFINE_integer("questions", 4000, "Questions to ask.", lower_bound=1)
_CALLERS = flags.DEFINE_integer("callers", 16, "Threads that ask at the same time.", lower_bound=1)
_TOP_K = flags.DEFINE_integer("top_k", 4, "Results of a question.", lower_bound=1)
_MEMORY_MB = flags.DEFINE_integer("memory_mb", 512, "Memory of the index writer, MB.")
_SEED = flags.DEFINE_integer("seed", 0, "Of passages and questions.", lower_bound=0)
_OUT = flags.DEFINE_string("out", "", "Keep the index here; empty: a temporary folder, removed at the end.")
_FORMAT = flags.DEFINE_string("format", "text", "json or text.")


def main(argv: list[str]) -> int:
    app.define_help_flags()
    try:
        unread = flags.FLAGS(argv)[1:]
        if unread:
            raise ValueError(f"every argument must be a --flag=value: got {unread[0]!r}")
        if _FORMAT.value not in ("json", "text"):
            raise ValueError(f"--format must be json or text: got {_FORMAT.value!r}")
        from arft_jax.tools import search_bench  # after the flags: bad input costs no time

        with tempfile.TemporaryDirectory(prefix="bench-search-") as folder:
            figures = search_bench.run(
                _OUT.value or pathlib.Path(folder) / "index",
                n_passages=_PASSAGES.value,
                n_questions=_QUESTIONS.value,
                n_callers=_CALLERS.value,
                top_k=_TOP_K.value,
                memory_mb=_MEMORY_MB.value,
                seed=_SEED.value,
            )
    except (ValueError, flags.Error) as error:
        print(f"bench_search.py: {error}", file=sys.stderr)
        return 2
    if _FORMAT.value == "json":
        print(json.dumps(figures))
    else:
        print("\n".join(f"{name:22} {value:,}" for name, value in figures.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
