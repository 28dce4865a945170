"""Compiles every program of a run for hardware that need not be here, and says what fits.

    python launch/compile_check.py --config=configs/tiny_cpu.py --topology='tpu v5e:4x4'

TPU programs need the package libtpu, GPU programs jax-cuda12-plugin and jax-cuda12-pjrt; neither needs the hardware.
Exit status 1 where something does not fit, with the config keys that would help. Bad input: one sentence, exit
status 2.
"""

import json
import os
import sys

os.environ["JAX_PLATFORMS"] = "cpu"  # the compilers are asked for by name; no device is touched
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # several checks may run at once: none of them holds a chip

from absl import flags

from arft_jax.commands import config_flag

_CONFIG = config_flag.define_config()
_TOPOLOGY = flags.DEFINE_string("topology", "", "Hardware, as 'tpu v5e:8x8' or 'gpu h100:8'; empty: config.hardware.")
_FORMAT = flags.DEFINE_enum("format", "table", ("table", "json"), "What is printed.")


def main(argv: list[str]) -> None:
    try:
        if len(argv) > 1:
            raise ValueError(f"every argument must be a --flag=value: got {argv[1]!r}")
        if not _CONFIG.value:
            raise ValueError("--config must be given")
        from arft_jax import compile_check, compile_report  # after the flags: bad input costs no import of jax

        shown = compile_report.row_printer() if _FORMAT.value == "table" else None
        result = compile_check.check(_CONFIG.value, _TOPOLOGY.value, shown)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    if _FORMAT.value == "json":
        print(json.dumps(result, indent=1))
    else:
        print(compile_report.summary(result))
    sys.exit(1 if result["problems"] else 0)


if __name__ == "__main__":
    config_flag.run(main)
