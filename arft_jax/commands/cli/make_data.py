"""Makes tasks of the paper's kind from pictures of one's own: coding tasks with its faults, search tasks with a corpus.

    arft-make-data --input=photos.jsonl --out=DIR [--seed=0] [--variants=4] [--faults=dark,rotation90+noise]

A line of the file has image, question and answers; with a box it can be asked as a crop, with a query it is a search
over the documents of all lines (docs/data.md). DIR gets coding.jsonl and search.jsonl, which config.data.tasks takes
as jsonl:PATH, search.corpus.jsonl, reference chains that config.warm_start.chains takes (coding.chains.jsonl,
search.chains.jsonl; recorded with the tools really running), images/, contact_sheet.html to look at, and made.json.
The same file, pictures and seed give the same folder. Bad input: one sentence, exit status 2.
"""

from collections.abc import Sequence

from absl import flags

from arft_jax.commands import command_line
from arft_jax.io import terminal


def _define(values: flags.FlagValues, argv: Sequence[str]) -> None:
    flags.DEFINE_string("input", "", "JSONL file of pictures, questions and answers.", flag_values=values)
    flags.DEFINE_string("out", "", "Directory to write, new or empty.", flag_values=values)
    flags.DEFINE_integer("seed", 0, "Of faults and their strengths.", lower_bound=0, flag_values=values)
    flags.DEFINE_integer("variants", 4, "Coding tasks of an item, each with faults of its own.", flag_values=values)
    text = "Faults to draw from, two at once as rotation90+dark; empty: all of the paper's."
    flags.DEFINE_list("faults", [], text, flag_values=values)
    text = "Share of the pictures without a split of their own that is for tests."
    flags.DEFINE_float("test_frac", 0.1, text, flag_values=values)
    flags.DEFINE_enum("chains", "on", ("on", "off"), "off: tasks without reference chains.", flag_values=values)
    text = "Tasks on the contact sheet, spread over all of them."
    flags.DEFINE_integer("sheet", 40, text, lower_bound=0, flag_values=values)


def _make(f: flags.FlagValues, words: list[str]) -> None:
    command_line.require(f, "input", "out")
    from arft_jax.commands.make_data import Asked, make_data  # after the flags: it takes seconds

    asked = Asked(
        input=f.input,
        out=f.out,
        seed=f.seed,
        variants=f.variants,
        faults=tuple(f.faults),
        test_frac=f.test_frac,
        chains=f.chains == "on",
        sheet=f.sheet,
    )
    for line in make_data(asked):
        terminal.say(line)
    terminal.say(f"wrote {f.out}; look at {f.out}/contact_sheet.html")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    return command_line.run(__doc__, _define, _make, arguments)
