"""The flags that name the peers of a benchmark, and where their scripts lie."""

import os
import pathlib
from collections.abc import Sequence

from absl import flags

import arft_jax


def define_peers(values: flags.FlagValues, names: Sequence[str]) -> None:
    """Defines ``--against`` and, for each peer, the Python that has its packages."""
    flags.DEFINE_list("against", [], f"Peers: any of {', '.join(names)}.", flag_values=values)
    for name in names:
        default = os.environ.get(f"ARFT_{name.upper()}_PYTHON", "")
        flags.DEFINE_string(f"{name}_python", default, f"Runs {name}.", flag_values=values)


def chosen_peers(f: flags.FlagValues, names: Sequence[str], script: str) -> dict[str, tuple[str, str]]:
    """{name: (python, script)} of the peers that were asked for.

    Args:
      f: the parsed flags.
      names: those that there are.
      script: file name in ``launch/peers``, with ``{}`` for the peer's name.

    Raises:
      ValueError: an unknown peer, or a package without the scripts, which only a checkout has.
    """
    unknown = sorted(set(f.against) - set(names))
    if unknown:
        raise ValueError(f"peers must be among {', '.join(names)}: got {', '.join(unknown)} (--against)")
    folder = pathlib.Path(arft_jax.__file__).resolve().parents[1] / "launch" / "peers"
    if f.against and not folder.is_dir():
        raise ValueError(f"peers are run by scripts of a checkout: got no folder {folder} (--against)")
    return {name: (f[f"{name}_python"].value, str(folder / script.format(name))) for name in f.against}
