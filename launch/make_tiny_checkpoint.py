"""Writes a small random Qwen2.5-VL as a Hugging Face directory: something to try loaders and commands on.

    python launch/make_tiny_checkpoint.py --out=DIR [--dtype=float32] [--tied] [--seed=1]

The layout is that of the published checkpoints: flat config.json, sharded safetensors with an index, tokenizer and
processor files. Needs no torch. Bad input: one sentence, exit status 2.
"""

import os
import sys

from absl import app, flags

_OUT = flags.DEFINE_string("out", "", "Directory to write, new or empty.")
_DTYPE = flags.DEFINE_string("dtype", "bfloat16", "Type on disk: float32 or bfloat16.")
_TIED = flags.DEFINE_bool("tied", False, "Tie the unembedding to the embedding, as in the 3B model.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the weights.", lower_bound=0)


def main(argv: list[str]) -> int:
    app.define_help_flags()
    try:
        unread = flags.FLAGS(argv)[1:]
        if unread:
            raise ValueError(f"every argument must be a --flag=value: got {unread[0]!r}")
        if not _OUT.value:
            raise ValueError("--out must be given")
        os.environ.setdefault("JAX_PLATFORMS", "cpu")  # read when jax is imported
        from arft_jax.io.tiny_checkpoint import make_tiny_checkpoint

        make_tiny_checkpoint(_OUT.value, seed=_SEED.value, dtype=_DTYPE.value, tied=_TIED.value)
    except (ValueError, flags.Error) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {_OUT.value}: {', '.join(sorted(os.listdir(_OUT.value)))}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
