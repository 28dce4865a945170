"""From a config to the model that grades answers."""

import pathlib

from arft_jax.build.prompts import text_or_file
from arft_jax.openai_checks import ANSWER
from arft_jax.remote import access, log
from arft_jax.remote.costs import Meter
from arft_jax.rewards.judge import RUBRIC

KEYS = "config.rewards.judge"


def read_rubric(config) -> str:
    """The text that the judge is given.

    Raises:
      ValueError: a file that cannot be read, or has no place for the answer.
    """
    return text_or_file(config.rewards.judge.rubric, "a rubric", f"{KEYS}.rubric", ANSWER) or RUBRIC


def check_named(config, asked_by: str) -> None:
    """Raises a ValueError where no judge can be asked or its rubric not be read; sends nothing.

    Args:
      config: of the run.
      asked_by: the key or flag that wants the judge, for messages.
    """
    access.check_access(config.rewards.judge, KEYS, asked_by)
    read_rubric(config)


def make_judge(config, folder: pathlib.Path, process: int | None = None, n_processes: int = 1):
    """The judge of a run or an evaluation; its server is asked whether it is there, takes the key and has the model.

    Args:
      config: of the run.
      folder: where scores and the log of requests are kept; nothing is written before the first question.
      process, n_processes: of those that ask, which share the budget; None: one alone asks.

    Raises:
      ValueError: no such server or model, a key that it does not take.
    """
    from arft_jax.remote.client import Server, fields_of  # needs the openai package
    from arft_jax.remote.judge import RemoteJudge

    j = config.rewards.judge
    server = Server(
        base_url=j.base_url,
        model=j.model,
        key=access.key_of(j, KEYS),
        key_env=j.key_env,
        fields=fields_of(j.extra, j.temperature, j.max_tokens_name, j.max_tokens),
        timeout_s=j.timeout_s,
        n_tries=j.n_tries,
        keys=KEYS,
    )
    meter = log.open_meter(folder, Meter(dict(j.prices), j.budget_dollars, j.budget_tokens, n_processes, KEYS))
    judge = RemoteJudge(server, meter, folder, j.concurrency, process)
    judge.check()
    return judge
