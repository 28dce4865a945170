"""Prepares downloaded data sets for TFDS, without TensorFlow; counts and names the records that are bad.

    arft-prepare-data --data=DIR --out=DIR [--sets=mat_coding,hotpotqa]

DIR holds what was downloaded, in its authors' layout (docs/data.md): MAT-Benchmark/ and MAT-Training/ of MAT,
FlashRAG's hotpotqa/, 2wikimultihopqa/, musique/ and bamboogle/. Without --sets every set whose files are there is
prepared. ``tfds.data_source(NAME, data_dir=OUT)`` reads a prepared set, and needs neither TensorFlow nor this package.
A record that is not of its layout, or whose image cannot be decoded, is left out and named, here and in metadata.json
of the prepared set. What is there already, of the same files, stays. Bad input: one sentence, exit status 2.
"""

from collections.abc import Sequence

from absl import flags

from arft_jax.commands import command_line
from arft_jax.io import terminal

_NAMED = 5  # bad records of a split, at most


def _define(values: flags.FlagValues, argv: Sequence[str]) -> None:
    flags.DEFINE_string("data", "", "Folder that holds what was downloaded.", flag_values=values)
    flags.DEFINE_string("out", "", "Folder of the prepared sets, the data_dir of TFDS.", flag_values=values)
    text = "Names, several by commas; empty: every set whose files are there."
    flags.DEFINE_list("sets", [], text, flag_values=values)


def _prepare(f: flags.FlagValues, words: list[str]) -> None:
    command_line.require(f, "data", "out")
    from arft_jax.commands.prepare_data import prepare  # after the flags: it takes seconds

    for done in prepare(f.sets, f.data, f.out):
        counts = ", ".join(f"{n} {split}" for split, n in done.n_records.items())
        said = "prepared" if done.is_new else "was there"
        terminal.say(f"{done.name}: {said}, {counts}; tfds.data_source({done.tfds_name!r}, data_dir={f.out!r})")
        for split, bad in done.bad.items():
            if bad:
                lines = [f"{done.name}: {len(bad)} bad records of {split} are left out:", *bad[:_NAMED]]
                if len(bad) > _NAMED:
                    lines.append(f"and {len(bad) - _NAMED} more, in {done.folder / 'metadata.json'}")
                terminal.say("\n  ".join(lines))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    return command_line.run(__doc__, _define, _prepare, arguments)
