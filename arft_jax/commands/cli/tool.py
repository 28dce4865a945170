"""Runs one tool call by hand and prints what the policy would see.

    arft-tool python --code=fix.py --image=card.png --out=made --format=json
    arft-tool search --query='Who wrote it?' --index=wiki18.index
    arft-tool image_search --image=card.png --index=photos.index --config=qwen7b_tpu
    arft-tool crop --image=card.png --box=10,20,300,400 --frame=permille

One JSON object with ``status`` (ok, error, limit, infra, refused), ``exit`` (status code or signal of the code),
``text``, ``images`` (paths in ``--out``), ``seconds``, ``sandbox``. What goes wrong in the tool is an answer too and
ends with status 0; bad flags: one sentence, exit status 2. ``--config`` gives limits, image sizes and search back-end;
without it the limits are the defaults and images are resized as for the published Qwen2.5-VL.
"""

import json
from collections.abc import Sequence

from absl import flags

from arft_jax.commands import command_line, config_flag
from arft_jax.io import terminal


def _define(values: flags.FlagValues, argv: Sequence[str]) -> None:
    config_flag.define_config(values, argv)
    flags.DEFINE_string("code", "", "File of Python source (python).", flag_values=values)
    text = "Image file; may be given several times: image_1, image_2, ..."
    flags.DEFINE_multi_string("image", [], text, flag_values=values)
    flags.DEFINE_string("query", "", "What to look for (search, image_search).", flag_values=values)
    flags.DEFINE_string("index", "", "Search index (search, image_search).", flag_values=values)
    flags.DEFINE_string("box", "", "x0,y0,x1,y1 (crop).", flag_values=values)
    text = "Units of the box: resized, permille or original (crop)."
    flags.DEFINE_string("frame", "", text, flag_values=values)
    text = "Level of the sandbox; empty: the config's (python)."
    flags.DEFINE_string("level", "", text, flag_values=values)
    flags.DEFINE_string("out", "", "Folder for images; empty: a fresh temporary one.", flag_values=values)
    flags.DEFINE_enum("format", "text", ("text", "json"), "What is printed.", flag_values=values)


def _call(f: flags.FlagValues, words: list[str]) -> None:
    if len(words) != 1:
        raise ValueError("the first argument must be a tool (python, search, image_search, crop), all others flags")
    from arft_jax.commands import tool  # after the flags: bad input costs no time
    from arft_jax.config import default_config
    from arft_jax.config_checks import validate

    if (config := f.config) is None:
        config = default_config()
        config.data.update(tool.PUBLISHED_SIZES)
    else:
        validate(config)
    request = tool.ToolRequest(
        words[0],
        config,
        code=f.code,
        images=f.image,
        query=f.query,
        index=f.index,
        box=f.box,
        frame=f.frame,
        level=f.level,
    )
    result = tool.run(request, f.out)
    if f.format == "json":
        terminal.say(json.dumps(result))
    else:
        terminal.say("\n".join(f"{name}: {value}" for name, value in result.items()))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    return command_line.run(__doc__, _define, _call, arguments, words=True)
