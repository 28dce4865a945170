"""Weights in and out: Hugging Face directories of Qwen2.5-VL and checkpoints of this package.

    python launch/convert.py import --weights=HF_DIR                        check: every tensor, every shape
    python launch/convert.py import --weights=HF_DIR --checkpoint=DIR       and write a checkpoint
    python launch/convert.py export --checkpoint=DIR --out=HF_DIR           the other way round

DIR of ``export`` is the work directory of a run (``runs/tiny_cpu``: its newest good checkpoint; the run may still be
going on) or what ``import`` wrote. HF_DIR gets safetensors, config.json, tokenizer and processor files: transformers
and vLLM load it. ``--dtype=bfloat16`` writes half the bytes; ``--tokenizer=DIR`` copies tokenizer files from elsewhere.
Safetensors only: pickle files are refused. Bad input or a full disk: one sentence after ``error:``, exit status 2, and
no output directory.
"""

import os
import sys

from absl import app, flags

_WEIGHTS = flags.DEFINE_string("weights", "", "import: Hugging Face directory to read.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", "", "import: directory to write; export: directory to read.")
_OUT = flags.DEFINE_string("out", "", "export: Hugging Face directory to write, new or empty.")
_DTYPE = flags.DEFINE_string("dtype", "float32", "Type that is written: float32 or bfloat16.")
_TOKENIZER = flags.DEFINE_string("tokenizer", "", "export: directory of tokenizer files; empty: the checkpoint's.")
_MAX_SHARD_BYTES = flags.DEFINE_integer("max_shard_bytes", 5_000_000_000, "export: limit of one file.")
_NEEDED = {"import": (_WEIGHTS,), "export": (_CHECKPOINT, _OUT)}
_FOREIGN = {"import": (_OUT, _TOKENIZER), "export": (_WEIGHTS,)}


def main(argv: list[str]) -> int:
    app.define_help_flags()
    try:
        verbs = flags.FLAGS(argv)[1:]
        if len(verbs) != 1 or verbs[0] not in _NEEDED:
            raise ValueError(f"the command must be import or export, and then flags: got {' '.join(verbs) or 'none'}")
        for flag in _NEEDED[verbs[0]]:
            if not flag.value:
                raise ValueError(f"--{flag.name} must be given")
        for flag in _FOREIGN[verbs[0]]:
            if flag.value:
                raise ValueError(f"--{flag.name} is no flag of {verbs[0]}")
        os.environ.setdefault("JAX_PLATFORMS", "cpu")  # read when jax is imported: a conversion needs no accelerator
        from arft_jax.commands import convert

        if verbs[0] == "import":
            line = convert.import_weights(_WEIGHTS.value, _CHECKPOINT.value, _DTYPE.value)
        else:
            line = convert.export_weights(
                _CHECKPOINT.value, _OUT.value, _DTYPE.value, _TOKENIZER.value, _MAX_SHARD_BYTES.value
            )
    except (ValueError, OSError, flags.Error) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
