"""Times one update, optimiser included, on trajectories of given lengths: padded, packed, and prompts once for a group.

    arft-bench-update --config=configs/bench_cpu.py --config.rollout.max_tokens=4096 --config.train.micro_tokens=16384

Random weights of the config's sizes on the first device; groups of trajectories whose lengths are drawn evenly from
``--prompt`` and ``--completion``, each prompt with an image. The padded way gives each trajectory a row of
``rollout.max_tokens``. A line a round goes to standard error, the table to standard output. Bad input: one sentence,
exit status 2.
"""

import json
import sys
from collections.abc import Sequence

from absl import flags

from arft_jax.commands import command_line, config_flag
from arft_jax.io import terminal


def _define(values: flags.FlagValues, argv: Sequence[str]) -> None:
    config_flag.define_config(values, argv)
    flags.DEFINE_integer("groups", 2, "Prompts.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("group_size", 8, "Trajectories of a prompt.", lower_bound=1, flag_values=values)
    text = "Shortest and longest prompt, tokens, its image of 64 included."
    flags.DEFINE_list("prompt", ["300", "1500"], text, flag_values=values)
    text = "Shortest and longest completion, tokens."
    flags.DEFINE_list("completion", ["50", "1500"], text, flag_values=values)
    flags.DEFINE_integer("rounds", 2, "Timed updates of each way.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("seed", 0, "Of lengths, words and images.", lower_bound=0, flag_values=values)
    flags.DEFINE_string("format", "text", "Of the output: text or json.", flag_values=values)


def _range(given: Sequence[str], flag: str) -> tuple[int, int]:
    if len(given) != 2 or not all(x.isdecimal() for x in given) or not 0 < int(given[0]) <= int(given[1]):
        raise ValueError(f"{flag} must be two whole numbers, the smaller first: got {','.join(given)} (--{flag})")
    return int(given[0]), int(given[1])


def _bench(f: flags.FlagValues, words: list[str]) -> None:
    command_line.require(f, "config")
    if f.format not in ("text", "json"):
        raise ValueError(f"format must be text or json: got {f.format!r} (--format)")
    prompt, completion = _range(f.prompt, "prompt"), _range(f.completion, "completion")
    longest = f.config.rollout.max_tokens
    if prompt[1] + completion[1] > longest:
        raise ValueError(
            f"the longest trajectory must fit max_tokens: got {prompt[1]} + {completion[1]} tokens, max_tokens="
            f"{longest} (config.rollout.max_tokens, --prompt, --completion)"
        )
    from arft_jax.bench import update  # after the flags: bad input costs no import of jax
    from arft_jax.config_checks import validate

    validate(f.config)
    lengths = update.Lengths(f.groups, f.group_size, prompt, completion)

    def tell(way: str, seconds: float) -> None:
        terminal.say(f"{way} {seconds:.2f} s", file=sys.stderr)

    result = update.bench_update(f.config, lengths, rounds=f.rounds, seed=f.seed, on_round=tell)
    terminal.say(json.dumps(result) if f.format == "json" else update.format_text(result))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    return command_line.run(__doc__, _define, _bench, arguments)
