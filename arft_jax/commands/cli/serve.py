"""Serves a trained agent behind the OpenAI chat completions API.

    arft-serve --workdir=runs/tiny_cpu
    arft-serve --config=qwen7b_gpu --checkpoint=none --config.weights=DIR --host=0.0.0.0 --key_env=ARFT_KEY

Two kinds of model are listed under /v1/models. NAME is the policy, one turn a request: the client keeps the
conversation and runs its own tools, which it describes in ``tools``. NAME-coding, NAME-search or NAME-general is the
agent that the run has trained, whose tools run here until it answers. --record=DIR keeps the trajectories of all
requests, with token ids, log-probs and images, in the format of rollouts. /health and /metrics are for whoever watches.
SIGTERM lets requests under way finish for --grace_s seconds. Exit status 0: a signal ended it; 1: a fault of the
device; 2: bad input, one sentence.
"""

import importlib.util
from collections.abc import Sequence

from absl import flags

from arft_jax.commands import command_line, config_flag


def _define(values: flags.FlagValues, argv: Sequence[str]) -> None:
    text = "run: the newest good checkpoint of the work directory; none: config.weights as they are."
    flags.DEFINE_enum("checkpoint", "run", ("run", "none"), text, flag_values=values)
    text = "off: no tool runs here, and the policy alone is served."
    flags.DEFINE_enum("tools", "on", ("on", "off"), text, flag_values=values)
    text = "Address to listen at; one that others can reach needs --key_env."
    flags.DEFINE_string("host", "127.0.0.1", text, flag_values=values)
    flags.DEFINE_integer("port", 8000, "0: a free one.", lower_bound=0, upper_bound=65535, flag_values=values)
    flags.DEFINE_string("name", "", "What clients call the model; empty: config.name.", flag_values=values)
    text = "Environment variable with the key that clients must send; empty: none is needed."
    flags.DEFINE_string("key_env", "", text, flag_values=values)
    text = "Requests that may wait for a slot; more are answered 429."
    flags.DEFINE_integer("max_waiting", 64, text, lower_bound=1, flag_values=values)
    text = "Seconds that a request may take, its wait included."
    flags.DEFINE_float("timeout_s", 600.0, text, lower_bound=0.0, flag_values=values)
    text = "Seconds that requests under way may take when the server is asked to stop."
    flags.DEFINE_float("grace_s", 30.0, text, lower_bound=0.0, flag_values=values)
    flags.DEFINE_integer("max_body_mb", 64, "MiB of a request.", lower_bound=1, flag_values=values)
    text = "Folder whose image files requests may name as file://PATH; empty: none."
    flags.DEFINE_string("files", "", text, flag_values=values)
    text = "Folder to which the trajectories of all requests are written; empty: none is kept."
    flags.DEFINE_string("record", "", text, flag_values=values)
    config_flag.define_config_or_workdir(values, argv)


def _serve(f: flags.FlagValues, words: list[str]) -> int:
    if not f.workdir and not f.config:
        raise ValueError("--workdir must be given, or --config")
    absent = [name for name in ("uvicorn", "starlette", "prometheus_client") if importlib.util.find_spec(name) is None]
    if absent:
        raise ValueError(f"the server needs {', '.join(absent)}: pip install 'arft_jax[serve]'")
    from arft_jax.commands.serve import Serving, serve  # after the flags: bad input costs no import of jax

    serving = Serving(
        checkpoint=f.checkpoint,
        tools=f.tools,
        host=f.host,
        port=f.port,
        name=f.name,
        key_env=f.key_env,
        max_waiting=f.max_waiting,
        timeout_s=f.timeout_s,
        grace_s=f.grace_s,
        max_body_mb=f.max_body_mb,
        files=f.files,
        record=f.record,
    )
    return serve(f.config, serving)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    return command_line.run(__doc__, _define, _serve, arguments)
