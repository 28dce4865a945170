"""Builds a search index: of passages, or of a folder of captioned images.

    arft-build-index --input=wiki18.jsonl --input=more.tsv --out=wiki18.index
    arft-build-index --images=DIR --config=qwen7b_tpu --out=photos.index

Passages: ``.jsonl`` ({"id", "title", "text"}, or "contents" as in FlashRAG's wiki-18) and ``.tsv`` (id, text, title, as
DPR's). Images: a folder with ``captions.jsonl`` ({"image": file name, "caption": text} a line); the vectors are those
of the config's vision tower. The index appears under its name when it is whole. One JSON object on standard output;
bad input: one sentence, exit status 2.
"""

import json
from collections.abc import Sequence

from absl import flags

from arft_jax.commands import command_line, config_flag
from arft_jax.io import terminal


def _define(values: flags.FlagValues, argv: Sequence[str]) -> None:
    config_flag.define_config(values, argv)
    text = "File of passages, .jsonl or .tsv; may be given several times."
    flags.DEFINE_multi_string("input", [], text, flag_values=values)
    text = "Folder of images and captions.jsonl, in place of --input."
    flags.DEFINE_string("images", "", text, flag_values=values)
    text = "The index, a directory; an older index of that name is replaced."
    flags.DEFINE_string("out", None, text, flag_values=values)
    flags.DEFINE_string("corpus", "", "Collection of the passages that name none.", flag_values=values)
    text = "Malformed lines to pass over and count; one more ends it."
    flags.DEFINE_integer("max_bad_lines", 0, text, flag_values=values)
    text = "What the writer gathers before it writes a part, MB."
    flags.DEFINE_integer("memory_mb", 512, text, flag_values=values)


def _build(f: flags.FlagValues) -> dict:
    if f.images:
        from arft_jax.build import image_embedder
        from arft_jax.config_checks import validate
        from arft_jax.tools.image_index import ImageIndex

        validate(f.config)
        return ImageIndex.build(f.out, f.images, image_embedder.embed_function(f.config))
    from arft_jax.tools import passages  # after the flags: bad input costs no time

    limits = dict(max_bad_lines=f.max_bad_lines, memory_mb=f.memory_mb)
    return passages.build_index(f.input, f.out, corpus=f.corpus, **limits)


def _build_index(f: flags.FlagValues, words: list[str]) -> None:
    command_line.require(f, "out")
    if bool(f.images) == bool(f.input):
        raise ValueError("either --input or --images must be given")
    if f.images and not f.config:
        raise ValueError("--images needs --config, whose vision tower makes the vectors")
    terminal.say(json.dumps(_build(f)))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    return command_line.run(__doc__, _define, _build_index, arguments)
