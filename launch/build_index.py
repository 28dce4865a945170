"""Builds a search index: of passages, or of a folder of captioned images.

    python launch/build_index.py --input=wiki18.jsonl --input=more.tsv --out=wiki18.index
    python launch/build_index.py --images=DIR --config=configs/qwen7b_tpu.py --out=photos.index

Passages: ``.jsonl`` ({"id", "title", "text"}, or "contents" as in FlashRAG's wiki-18) and ``.tsv`` (id, text, title, as
DPR's). Images: a folder with ``captions.jsonl``; the vectors are those of the config's vision tower. The index appears
under its name when it is whole. One JSON object on standard output; bad input: one sentence, exit status 2.
"""

import json
import sys

from absl import flags

from arft_jax.commands import config_flag

_CONFIG = config_flag.define_config()
_INPUT = flags.DEFINE_multi_string("input", [], "File of passages, .jsonl or .tsv; may be given several times.")
_IMAGES = flags.DEFINE_string("images", "", "Folder of images and captions.jsonl, in place of --input.")
_OUT = flags.DEFINE_string("out", None, "The index, a directory; an older index of that name is replaced.")
_CORPUS = flags.DEFINE_string("corpus", "", "Collection of the passages that name none.")
_MAX_BAD_LINES = flags.DEFINE_integer("max_bad_lines", 0, "Malformed lines to pass over and count; one more ends it.")
_MEMORY_MB = flags.DEFINE_integer("memory_mb", 512, "What the writer gathers before it writes a part, MB.")


def _build() -> dict:
    if _IMAGES.value:
        from arft_jax.build import image_embedder
        from arft_jax.config_checks import validate
        from arft_jax.tools.image_index import ImageIndex

        validate(_CONFIG.value)
        return ImageIndex.build(_OUT.value, _IMAGES.value, image_embedder.embed_function(_CONFIG.value))
    from arft_jax.tools import passages  # after the flags: bad input costs no time

    return passages.build_index(
        _INPUT.value,
        _OUT.value,
        max_bad_lines=_MAX_BAD_LINES.value,
        corpus=_CORPUS.value,
        memory_mb=_MEMORY_MB.value,
    )


def main(argv: list[str]) -> None:
    try:
        if len(argv) > 1:
            raise ValueError(f"every argument must be a --flag=value: got {argv[1]!r}")
        if not _OUT.value:
            raise ValueError("--out must be given")
        if bool(_IMAGES.value) == bool(_INPUT.value):
            raise ValueError("either --input or --images must be given")
        if _IMAGES.value and not _CONFIG.value:
            raise ValueError("--images needs --config, whose vision tower makes the vectors")
        report = _build()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(json.dumps(report))


if __name__ == "__main__":
    config_flag.run(main)
