"""Times decode at a published size behind long caches, against the memory's bound and peers, on the first device.

    python launch/bench_decode.py --size=3b --contexts=2048,4096,8192 --slots=64 --against=transformers --format=json
    python launch/bench_decode.py --size=tiny --contexts=32,64 --slots=4 --steps=8      (a CPU: whether it runs)

Random bfloat16 weights, a cache of random values. A peer needs an environment of its own with its packages
(``--transformers_python``, or the variable ARFT_TRANSFORMERS_PYTHON) and shares the GPU's memory; it runs as many of
the rows as the rest holds. A line a context length goes to standard error as it is done, the whole to standard output.
Bad input: one sentence, exit status 2.
"""

import json
import os
import pathlib
import sys

from absl import app, flags

_NAMES = ("transformers",)
_SIZE = flags.DEFINE_string("size", "3b", "Of the model: a published one, 3b, 7b, 32b or 72b, or tiny.")
_CONTEXTS = flags.DEFINE_list("contexts", ["2048", "4096", "8192"], "Tokens of a row when it decodes.")
_SLOTS = flags.DEFINE_integer("slots", 64, "Rows that decode together.")
_STEPS = flags.DEFINE_integer("steps", 64, "Tokens of a segment.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Timed segments of each side.")
_AGAINST = flags.DEFINE_list("against", [], f"Peers: any of {', '.join(_NAMES)}.")
_FORMAT = flags.DEFINE_string("format", "text", "Of the output: text or json.")
_PYTHON = {
    name: flags.DEFINE_string(f"{name}_python", os.environ.get(f"ARFT_{name.upper()}_PYTHON", ""), f"Runs {name}.")
    for name in _NAMES
}


def main(argv: list[str]) -> int:
    app.define_help_flags()
    try:
        unread = flags.FLAGS(argv)[1:]
        if unread:
            raise ValueError(f"every argument must be a --flag=value: got {unread[0]!r}")
        if _FORMAT.value not in ("text", "json"):
            raise ValueError(f"format must be text or json: got {_FORMAT.value!r} (--format)")
        unknown = sorted(set(_AGAINST.value) - set(_NAMES))
        if unknown:
            raise ValueError(f"peers must be among {', '.join(_NAMES)}: got {', '.join(unknown)} (--against)")
        if not all(context.isdecimal() for context in _CONTEXTS.value):
            raise ValueError(f"contexts must be whole numbers: got {','.join(_CONTEXTS.value)} (--contexts)")
        # JAX would take most of a GPU at once, and a peer be left without.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        from arft_jax.bench import decode  # after the flags: bad input costs no import of jax

        folder = pathlib.Path(__file__).resolve().parent / "peers"
        result = decode.bench(
            _SIZE.value,
            [int(context) for context in _CONTEXTS.value],
            n_slots=_SLOTS.value,
            n_steps=_STEPS.value,
            repeats=_REPEATS.value,
            against={name: (_PYTHON[name].value, str(folder / f"peer_{name}_decode.py")) for name in _AGAINST.value},
        )
    except (ValueError, flags.Error) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(result) if _FORMAT.value == "json" else decode.format_text(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
