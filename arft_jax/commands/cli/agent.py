"""Asks a trained agent questions over images and prints what it did.

    arft-agent --workdir=runs/tiny_cpu --image=card.png --question="What number is printed?"
    arft-agent --workdir=RUN --image=a.jpg --image=b.jpg --question="What differs?" --question="Which is older?"

The work directory of a run is all that is needed: its configuration, its newest good checkpoint and its tokenizer are
read from there, and the tools are the training's own. --image and --question may be given several times: every
question is asked over all the images, in one process, so that programs are compiled once. --kind chooses the agent
where a run has trained several. In place of --workdir, --config names a configuration whose work directory is read;
--config.KEY=VALUE overrides a key either way. --html=FILE writes the trajectories as a page. Bad input: one sentence,
exit status 2.
"""

from collections.abc import Sequence

from absl import flags

from arft_jax.commands import command_line, config_flag


def _define(values: flags.FlagValues, argv: Sequence[str]) -> None:
    text = "Image file; may be given several times: image_1, image_2, ... in that order."
    flags.DEFINE_multi_string("image", [], text, flag_values=values)
    flags.DEFINE_multi_string("question", [], "What to ask; may be given several times.", flag_values=values)
    text = "Which agent answers; empty: the run's, where it has trained one kind of task."
    flags.DEFINE_string("kind", "", text, flag_values=values)
    text = "Search only this collection of the index; empty: all of it."
    flags.DEFINE_string("corpus", "", text, flag_values=values)
    text = "The only tools to offer; may be given several times; none: those of the kind."
    flags.DEFINE_multi_string("tool", [], text, flag_values=values)
    flags.DEFINE_string("index", "", "Search index; empty: the run's own.", flag_values=values)
    flags.DEFINE_float("temperature", 0.0, "0 is greedy.", flag_values=values)
    text = "Tokens of a trajectory, prompt included; 0: as in training, and at least 2048."
    flags.DEFINE_integer("max_tokens", 0, text, lower_bound=0, flag_values=values)
    flags.DEFINE_string("html", "", "Also write a page to this file.", flag_values=values)
    config_flag.define_config_or_workdir(values, argv)


def _ask(f: flags.FlagValues, words: list[str]) -> None:
    if not f.workdir and not f.config:
        raise ValueError("--workdir must be given, or --config")
    command_line.require(f, "image", "question")
    from arft_jax.commands import agent  # after the flags: bad input costs no import of jax

    agent.ask(
        f.config,
        images=f.image,
        questions=f.question,
        kind=f.kind,
        corpus=f.corpus,
        tools=f.tool,
        index=f.index,
        temperature=f.temperature,
        max_tokens=f.max_tokens,
        html=f.html,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    return command_line.run(__doc__, _define, _ask, arguments)
