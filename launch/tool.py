"""Runs one tool call by hand and prints what the policy would see.

    python launch/tool.py python --code=fix.py --image=card.png --out=made --format=json
    python launch/tool.py search --query='Who wrote it?' --index=wiki18.index
    python launch/tool.py image_search --image=card.png --index=photos.index --config=configs/qwen7b_tpu.py
    python launch/tool.py crop --image=card.png --box=10,20,300,400 --frame=permille

One JSON object with ``status`` (ok, error, limit, infra, refused), ``exit`` (status code or signal of the code),
``text``, ``images`` (paths in ``--out``), ``seconds``, ``sandbox``. What goes wrong in the tool is an answer too and
ends with status 0; bad flags: one sentence, exit status 2. ``--config`` gives limits, image sizes and search back-end;
without it the limits are the defaults and images are resized as for the published Qwen2.5-VL.
"""

import json
import sys

from absl import flags

from arft_jax.commands import config_flag

_CONFIG = config_flag.define_config()
_CODE = flags.DEFINE_string("code", "", "File of Python source (python).")
_IMAGE = flags.DEFINE_multi_string("image", [], "Image file; may be given several times: image_1, image_2, ...")
_QUERY = flags.DEFINE_string("query", "", "What to look for (search, image_search).")
_INDEX = flags.DEFINE_string("index", "", "Search index (search, image_search).")
_BOX = flags.DEFINE_string("box", "", "x0,y0,x1,y1 (crop).")
_FRAME = flags.DEFINE_string("frame", "", "Units of the box: resized, permille or original (crop).")
_LEVEL = flags.DEFINE_string("level", "", "Level of the sandbox; empty: the config's (python).")
_OUT = flags.DEFINE_string("out", "", "Folder for images; empty: a fresh temporary one.")
_FORMAT = flags.DEFINE_enum("format", "text", ("text", "json"), "What is printed.")


def main(argv: list[str]) -> None:
    try:
        if len(argv) != 2:
            raise ValueError("the first argument must be a tool (python, search, image_search, crop), all others flags")
        from arft_jax import tool_call  # after the flags: bad input costs no time
        from arft_jax.config import default_config
        from arft_jax.config_checks import validate

        if (config := _CONFIG.value) is None:
            config = default_config()
            config.data.update(tool_call.PUBLISHED_SIZES)
        else:
            validate(config)
        call = tool_call.Call(
            argv[1],
            config,
            _CODE.value,
            _IMAGE.value,
            _QUERY.value,
            _INDEX.value,
            _BOX.value,
            _FRAME.value,
            _LEVEL.value,
        )
        result = tool_call.run(call, _OUT.value)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    if _FORMAT.value == "json":
        print(json.dumps(result))
    else:
        print("\n".join(f"{name}: {value}" for name, value in result.items()))


if __name__ == "__main__":
    config_flag.run(main)
