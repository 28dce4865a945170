"""Writes a small data directory in the layout of the MAT benchmark: something to try the configs of real models on.

    python launch/make_tiny_data.py --out=DIR [--seed=1] [--n_train=16] [--n_test=8]

mat_coding/ and mat_search/, each with train.json, test.json and images; mat_search/corpus.jsonl. The items are those of
the self-made tasks; the layout is described in arft_jax/data/mat.py. Bad input: one sentence, exit status 2.
"""

import os
import sys

from absl import app, flags

_OUT = flags.DEFINE_string("out", "", "Directory to write, new or empty.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the items and the corpus.", lower_bound=0)
_N_TRAIN = flags.DEFINE_integer("n_train", 16, "Training items of each task set.")
_N_TEST = flags.DEFINE_integer("n_test", 8, "Test items of each task set, simple and hard ones.")


def main(argv: list[str]) -> int:
    app.define_help_flags()
    try:
        unread = flags.FLAGS(argv)[1:]
        if unread:
            raise ValueError(f"every argument must be a --flag=value: got {unread[0]!r}")
        if not _OUT.value:
            raise ValueError("--out must be given")
        from arft_jax.commands.tiny_data import make_tiny_data

        make_tiny_data(_OUT.value, seed=_SEED.value, n_train=_N_TRAIN.value, n_test=_N_TEST.value)
    except (ValueError, flags.Error) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {_OUT.value}: {', '.join(sorted(os.listdir(_OUT.value)))}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
