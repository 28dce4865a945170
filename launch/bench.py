"""Times this library and peers on one shape, side by side, and prints the ratios.

    python launch/bench.py --config=configs/bench_cpu.py --against=transformers,tunix --format=json

Each peer needs an environment of its own with its packages (``--transformers_python``, ``--tunix_python``, or the
variables ARFT_TRANSFORMERS_PYTHON, ARFT_TUNIX_PYTHON); what it runs lies in ``launch/peers``. One line a figure goes to
standard error as it is done, the whole to standard output. Bad input: one sentence, exit status 2.
"""

import json
import os
import pathlib
import sys

from absl import flags

from arft_jax.commands import config_flag

_NAMES = ("transformers", "tunix")
_CONFIG = config_flag.define_config()
_AGAINST = flags.DEFINE_list("against", [], f"Peers: any of {', '.join(_NAMES)}.")
_FIGURES = flags.DEFINE_list("figures", [], "What to measure; empty: everything.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "Rounds of each figure.")
_DRILL = flags.DEFINE_bool("drill", True, "Hold late and dead tools against instant ones.")
_PICTURE = flags.DEFINE_string("picture", "", "PNG of one rollout's slots over time; empty: <workdir>/timeline.png.")
_FORMAT = flags.DEFINE_enum("format", "text", ("text", "json"), "Of the output.")
_PYTHON = {
    name: flags.DEFINE_string(f"{name}_python", os.environ.get(f"ARFT_{name.upper()}_PYTHON", ""), f"Runs {name}.")
    for name in _NAMES
}


def main(argv: list[str]) -> None:
    try:
        if len(argv) > 1:
            raise ValueError(f"every argument must be a --flag=value: got {argv[1]!r}")
        if not _CONFIG.value:
            raise ValueError("--config must be given")
        unknown = sorted(set(_AGAINST.value) - set(_NAMES))
        if unknown:
            raise ValueError(f"peers must be among {', '.join(_NAMES)}: got {', '.join(unknown)} (--against)")
        from arft_jax.bench import run  # after the flags: bad input costs no import of jax

        folder = pathlib.Path(__file__).resolve().parent / "peers"
        result = run.bench(
            _CONFIG.value,
            against={name: (_PYTHON[name].value, str(folder / f"peer_{name}.py")) for name in _AGAINST.value},
            figures=_FIGURES.value or tuple(run.UNITS),
            repeats=_REPEATS.value,
            drill=_DRILL.value,
            picture=_PICTURE.value or str(pathlib.Path(_CONFIG.value.workdir) / "timeline.png"),
        )
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(json.dumps(result) if _FORMAT.value == "json" else run.format_text(result))


if __name__ == "__main__":
    config_flag.run(main)
