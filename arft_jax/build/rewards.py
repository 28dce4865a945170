"""From a config to what scores a trajectory: the weights of R_total, and the user's own functions by import path."""

import inspect
import pathlib
import traceback

import jax

from arft_jax.build.judge import KEYS, check_named, make_judge, read_rubric
from arft_jax.build.settings import overlong, query_embedding, reward_weights
from arft_jax.io import terminal
from arft_jax.io.import_path import load_object
from arft_jax.rewards import judge, length
from arft_jax.rewards.combine import PARTS, Graded, Scorer
from arft_jax.rewards.extra import ExtraReward, RewardFailure, RewardFunction, reward_names

EXTRA_KEY = "config.rewards.extra"


def make_scorer(config) -> Scorer:
    """The scorer of a run; the first failure of a function of the user's is printed with its traceback, once.

    Raises:
      ValueError: weights out of range, an extra reward that cannot be imported or called with (trajectory, task), or
        dynamic sampling by a reward that there is not, a judge that cannot be asked.
    """
    paths, penalty, judged = [path for path, _ in config.rewards.extra], overlong(config), _graded(config)
    parts = (*PARTS, *((length.NAME,) if penalty else ()), *((judge.NAME,) if judged else ()))
    names = reward_names(paths, parts)
    metric = config.train.dynamic_sampling.metric
    if metric not in (*parts, *names):
        raise ValueError(
            f"metric must be a reward of this run, {', '.join((*parts, *names))}: got {metric!r} "
            "(config.train.dynamic_sampling.metric)"
        )
    extra = [
        ExtraReward(name, load_reward(path), float(weight))
        for name, (path, weight) in zip(names, config.rewards.extra, strict=True)
    ]
    told = _FirstFailure() if extra or judged else None
    return Scorer(reward_weights(config), query_embedding(config), tuple(extra), told, penalty, judged)


def _graded(config) -> Graded | None:
    if not config.rewards.judge.weight:
        return None
    check_named(config, f"{KEYS}.weight")
    folder = pathlib.Path(config.workdir) / judge.NAME
    several = jax.process_count() > 1
    made = make_judge(config, folder, jax.process_index() if several else None, jax.process_count())
    return Graded(made, read_rubric(config), float(config.rewards.judge.weight))


def load_reward(path: str) -> RewardFunction:
    """The reward function that an import path names.

    Raises:
      ValueError: nothing to be imported there, or nothing that is called with (trajectory, task) and returns at once.
    """
    function = load_object(path, EXTRA_KEY)
    if inspect.isclass(function) or not callable(function):
        kind = "a class" if inspect.isclass(function) else f"a {type(function).__name__}"
        raise ValueError(f"a reward must be a function of (trajectory, task): got {kind} at {path!r} ({EXTRA_KEY})")
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise ValueError(f"a reward must be a plain function, no coroutine or generator: got {path!r} ({EXTRA_KEY})")
    try:
        inspect.signature(function).bind(None, None)
    except TypeError as error:
        got = f"{path.rpartition(':')[2]}{inspect.signature(function)}"
        said = f"a reward must take (trajectory, task): got {got} at {path!r}, {error} ({EXTRA_KEY})"
        raise ValueError(said) from error
    except ValueError:  # a function written in C that tells no signature
        pass
    return function


class _FirstFailure:
    """Prints the first failure that it is told of; the figure ``reward_failed`` counts the others."""

    def __init__(self):
        self._told = False

    def __call__(self, failure: RewardFailure) -> None:
        if self._told:
            return
        self._told = True
        terminal.say(f"{failure}; such rows are masked and counted as reward_failed, the first is shown")
        if failure.__cause__ is not None:
            terminal.say("".join(traceback.format_exception(failure.__cause__)).rstrip())
