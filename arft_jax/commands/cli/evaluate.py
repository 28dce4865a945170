"""Evaluates a policy on benchmarks and prints the paper's table with its row in it.

    arft-evaluate --config=CONFIG --benchmark=mat_coding,mat_search --config.data.dir=DIR
    arft-evaluate --workdir=RUN --benchmark=mini_coding --tools=off --compare=RUN/evaluations/step_220
    arft-evaluate --config=qwen7b_tpu --checkpoint=none --config.weights=DIR --benchmark=mat_coding --out=DIR
    arft-evaluate --config=qwen7b_tpu --policy=openai --config.openai.model=gpt-4o --benchmark=mat_coding --out=DIR

The policy is the newest good checkpoint of the work directory, that of --workdir or of config.workdir. With
--checkpoint=none it is the Hugging Face directory config.weights as it is, under the PEFT adapter
config.model.lora.adapter where one is named. With --policy=openai it is a model behind a server that speaks OpenAI's
chat completions API: config.openai says which, OUT/requests.jsonl what was sent.

Answers are greedy, and written as they come to OUT/BENCHMARK/predictions.jsonl and trajectories.jsonl: the same command
goes on where another one ended, and asks nothing twice. Ends with results.json and table.md in OUT. Exit status 1: an
infrastructure failure ended some items in every attempt, or --judge gave some no grade, and the table is over the
others; the same command tries them again. 2: bad input, one sentence. 3: the budget of config.openai is spent; the same
command with a larger one goes on. 128 plus the signal's number: a signal ended it.
"""

import sys
from collections.abc import Sequence

from absl import flags

from arft_jax.commands import command_line, config_flag
from arft_jax.io import terminal


def _define(values: flags.FlagValues, argv: Sequence[str]) -> None:
    text = "mat_coding, mat_search, hotpotqa, vstar, .. (docs/mat.md), a set of config.data.tasks; several by commas."
    flags.DEFINE_list("benchmark", [], text, flag_values=values)
    text = "Who answers: native, this package's own; openai, a chat completions server (config.openai)."
    flags.DEFINE_string("policy", "native", text, flag_values=values)
    text = "run: the newest good checkpoint of the work directory; none: config.weights as they are."
    flags.DEFINE_enum("checkpoint", "run", ("run", "none"), text, flag_values=values)
    flags.DEFINE_enum("tools", "on", ("on", "off"), "off: every call is refused.", flag_values=values)
    text = "blank: a grey image of the same size in the place of each, to see what is answered without looking."
    flags.DEFINE_enum("image", "shown", ("shown", "blank"), text, flag_values=values)
    text = "Items of each benchmark, spread evenly over it; 0: all."
    flags.DEFINE_integer("limit", 0, text, lower_bound=0, flag_values=values)
    text = "Folder of the files; empty: WORKDIR/evaluations/step_N, and how it was asked."
    flags.DEFINE_string("out", "", text, flag_values=values)
    text = "The --out of another evaluation: paired differences to it, over the items that both have."
    flags.DEFINE_string("compare", "", text, flag_values=values)
    text = "Has every answer graded as well by the model of config.rewards.judge."
    flags.DEFINE_bool("judge", False, text, flag_values=values)
    config_flag.define_config_or_workdir(values, argv)


def _evaluate(f: flags.FlagValues, words: list[str]) -> int:
    if not f.workdir and not f.config:
        raise ValueError("--config must be given, or --workdir")
    command_line.require(f, "benchmark")
    if f.policy == "openai":
        command_line.on_cpu()  # the accelerator may be the server's
    from arft_jax.commands.evaluate import Asked, evaluate  # after the flags: bad input costs no import of jax
    from arft_jax.train.preemption import Stopped

    asked = Asked(
        benchmarks=tuple(f.benchmark),
        policy=f.policy,
        checkpoint=f.checkpoint,
        tools=f.tools,
        image=f.image,
        limit=f.limit,
        out=f.out,
        compare=f.compare,
        judge=f.judge,
    )
    try:
        return evaluate(f.config, asked)
    except Stopped as stop:
        terminal.say(stop, file=sys.stderr)
        return stop.code


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    return command_line.run(__doc__, _define, _evaluate, arguments)
