"""Converts weights: Hugging Face directories of Qwen2.5-VL to checkpoints of this package, and back.

    arft-convert import --weights=HF_DIR                        check: every tensor, every shape
    arft-convert import --weights=HF_DIR --checkpoint=DIR       and write a checkpoint
    arft-convert export --checkpoint=DIR --out=HF_DIR           the other way round
    arft-convert export --checkpoint=DIR --adapter=PEFT_DIR     the adapters alone, as peft reads them

DIR of ``export`` is the work directory of a run (``runs/tiny_cpu``: its newest good checkpoint; the run may still be
going on) or what ``import`` wrote. HF_DIR gets safetensors, config.json, tokenizer and processor files: transformers
and vLLM load it. Adapters of the run are merged there; PEFT_DIR gets adapter_config.json and
adapter_model.safetensors, with the weights that the run was started from as their base, or ``--base_model=NAME``.
``--dtype=bfloat16`` writes half the bytes; ``--tokenizer=DIR`` copies tokenizer files from elsewhere.
Safetensors only: pickle files are refused. Bad input or a full disk: one sentence after ``error:``, exit status 2, and
no output directory.
"""

from collections.abc import Sequence

from absl import flags

from arft_jax.commands import command_line
from arft_jax.io import terminal

_NEEDED = {"import": ("weights",), "export": ("checkpoint",)}
_FOREIGN = {"import": ("out", "tokenizer", "adapter", "base_model"), "export": ("weights",)}


def _define(values: flags.FlagValues, argv: Sequence[str]) -> None:
    flags.DEFINE_string("weights", "", "import: Hugging Face directory to read.", flag_values=values)
    text = "import: directory to write; export: directory to read."
    flags.DEFINE_string("checkpoint", "", text, flag_values=values)
    text = "export: Hugging Face directory to write, new or empty."
    flags.DEFINE_string("out", "", text, flag_values=values)
    text = "export: directory to write the adapters to, new or empty; beside --out or in its place."
    flags.DEFINE_string("adapter", "", text, flag_values=values)
    text = "export: what the adapters name as their base, a directory or a hub's name; empty: the run's weights."
    flags.DEFINE_string("base_model", "", text, flag_values=values)
    flags.DEFINE_string("dtype", "float32", "Type that is written: float32 or bfloat16.", flag_values=values)
    text = "export: directory of tokenizer files; empty: the checkpoint's."
    flags.DEFINE_string("tokenizer", "", text, flag_values=values)
    flags.DEFINE_integer("max_shard_bytes", 5_000_000_000, "export: limit of one file.", flag_values=values)


def _convert(f: flags.FlagValues, verbs: list[str]) -> None:
    if len(verbs) != 1 or verbs[0] not in _NEEDED:
        raise ValueError(f"the command must be import or export, and then flags: got {' '.join(verbs) or 'none'}")
    command_line.require(f, *_NEEDED[verbs[0]])
    for name in _FOREIGN[verbs[0]]:
        if f[name].value:
            raise ValueError(f"--{name} is no flag of {verbs[0]}")
    if verbs[0] == "export" and not f.out and not f.adapter:
        raise ValueError("--out must be given, or --adapter")
    command_line.on_cpu()
    from arft_jax.commands import convert

    try:
        if verbs[0] == "import":
            line = convert.import_weights(f.weights, f.checkpoint, f.dtype)
        else:
            names = dict(adapter=f.adapter, base_model=f.base_model)
            line = convert.export_weights(f.checkpoint, f.out, f.dtype, f.tokenizer, f.max_shard_bytes, **names)
    except OSError as error:  # a full disk
        raise ValueError(str(error)) from error
    terminal.say(line)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    return command_line.run(__doc__, _define, _convert, arguments, words=True)
