"""Times a server under many clients beside the rollout engine on the same requests.

    arft-bench-serve --config=configs/tiny_cpu.py --clients=32 --seconds=300
    arft-bench-serve --config=configs/tiny_cpu.py --clients=8 --seconds=20 --format=json

Weights are drawn where the configuration names none. The engine rolls all requests out at once, in this process; then
a server in a process of its own, with as many slots, is asked by clients in a third. Bad input: one sentence, exit
status 2.
"""

import functools
import json
import sys
from collections.abc import Sequence

from absl import flags

from arft_jax.commands import command_line, config_flag
from arft_jax.io import terminal


def _define(values: flags.FlagValues, argv: Sequence[str]) -> None:
    flags.DEFINE_integer("clients", 32, "That ask at once; slots too.", lower_bound=1, flag_values=values)
    flags.DEFINE_float("seconds", 300.0, "For which they ask.", lower_bound=1.0, flag_values=values)
    flags.DEFINE_integer("max_tokens", 64, "Of a reply.", lower_bound=1, flag_values=values)
    flags.DEFINE_string("format", "text", "Of the output: text or json.", flag_values=values)
    config_flag.define_config(values, argv)


def _of_config(given: Sequence[str]) -> list[str]:
    """The words of a command line that say the configuration, a value behind its flag included."""
    found = []
    for place, word in enumerate(given):
        if word == "--config" or word.startswith(("--config=", "--config.")):
            found += [word] if "=" in word else [word, *given[place + 1 : place + 2]]
    return found


def _bench(f: flags.FlagValues, words: list[str], given: Sequence[str]) -> None:
    if f.format not in ("text", "json"):
        raise ValueError(f"format must be text or json: got {f.format!r} (--format)")
    if not f.config:
        raise ValueError("--config must be given")
    from arft_jax.bench import serving  # after the flags: bad input costs no import of jax
    from arft_jax.config_checks import validate

    config = f.config
    with config.unlocked():
        config.rollout.n_slots = max(f.clients, config.rollout.group_size)
    validate(config)
    asked = serving.bodies(config.seed, f.max_tokens)
    rate = serving.engine_rate(config, asked, n_times=8)
    own = [*_of_config(given), "--checkpoint=none", f"--config.rollout.n_slots={config.rollout.n_slots}"]
    load = serving.server_load(own, asked, f.clients, f.seconds, lambda line: terminal.say(line, file=sys.stderr))
    result = {"engine_tokens_per_s": rate, "server": load, "ratio": load["tokens_per_s"] / rate}
    terminal.say(json.dumps(result) if f.format == "json" else serving.format_text(result))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    return command_line.run(__doc__, _define, functools.partial(_bench, given=given), arguments)
