"""From config.rewards.extra to a scorer: what is refused before any compute, and what is told of failures."""

import json
import sys
import types

import pytest
from absl import flags
from ml_collections import config_flags

from arft_jax.build.rewards import load_reward, make_scorer
from arft_jax.config import default_config
from arft_jax.config_checks import validate
from arft_jax.rewards.extra import RewardFailure
from arft_jax.rewards.length import Overlong
from arft_jax.train.run_dir import RunDir

SOURCE = """
class Judge:
    def __call__(self, trajectory, task):
        return 1.0
judge, number = Judge(), 3
def turns(trajectory, task): return len(trajectory.turns)
def with_default(trajectory, task, scale=2.0): return scale
def one(trajectory): return 1.0
def three(trajectory, task, tokenizer): return 1.0
def keyword(*, trajectory, task): return 1.0
async def later(trajectory, task): return 1.0
def stream(trajectory, task): yield 1.0
"""


@pytest.fixture(autouse=True)
def module(monkeypatch):
    made = types.ModuleType("rw_mine")
    exec(SOURCE, made.__dict__)
    monkeypatch.setitem(sys.modules, "rw_mine", made)


@pytest.mark.parametrize("name", ["turns", "with_default", "judge", "Judge.__call__"])
def test_what_is_called_with_a_trajectory_and_its_task_is_a_reward(name):
    if name == "Judge.__call__":  # unbound: it takes three
        with pytest.raises(ValueError, match="must take"):
            load_reward(f"rw_mine:{name}")
    else:
        assert callable(load_reward(f"rw_mine:{name}"))


REFUSALS = {
    "one": r"must take \(trajectory, task\): got one\(trajectory\) at 'rw_mine:one', too .*\(config.rewards.extra\)",
    "three": "missing a required argument: 'tokenizer'",
    "keyword": "too many positional arguments",
    "later": "a plain function, no coroutine or generator: got 'rw_mine:later'",
    "stream": "a plain function, no coroutine or generator: got 'rw_mine:stream'",
    "number": r"a function of \(trajectory, task\): got a int at 'rw_mine:number'",
    "Judge": "got a class at 'rw_mine:Judge'",
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_wrong_signature_is_refused_before_any_compute(name):
    with pytest.raises(ValueError, match=REFUSALS[name]):
        load_reward(f"rw_mine:{name}")


def test_a_scorer_follows_the_config_and_tells_the_first_failure_with_its_traceback(capsys):
    config = default_config()
    assert make_scorer(config).extra == () and make_scorer(config).on_failure is None
    config.rewards.extra = {"rw_mine:turns": 0.5, "rw_mine:judge": -1}
    scorer = make_scorer(config)
    assert [(extra.name, extra.weight) for extra in scorer.extra] == [("turns", 0.5), ("judge", -1.0)]
    for number in range(2):
        try:
            raise ZeroDivisionError("planted")
        except ZeroDivisionError as cause:
            failure = RewardFailure(f"failure {number}")
            failure.__cause__ = cause
        scorer.on_failure(failure)
    said = capsys.readouterr().out
    assert said.startswith("failure 0; such rows are masked") and "ZeroDivisionError: planted" in said
    assert "Traceback" in said and "failure 1" not in said


def test_the_penalty_on_length_is_the_configs_and_its_name_is_taken(monkeypatch):
    monkeypatch.setattr(sys.modules["rw_mine"], "overlong", lambda trajectory, task: 1.0, raising=False)
    config = default_config()
    config.rewards.extra = {"rw_mine:overlong": 1.0}
    assert make_scorer(config).overlong is None and make_scorer(config).extra[0].name == "overlong"
    config.train.update(unfinished="overlong", overlong_from=10, overlong_to=20)
    scorer = make_scorer(config)
    assert scorer.overlong == Overlong(10, 20) and scorer.extra[0].name == "rw_mine:overlong"


def test_dynamic_sampling_goes_by_a_reward_of_the_run():
    config = default_config()
    config.rewards.extra = {"rw_mine:turns": 0.5}
    for name in ("total", "em", "turns"):
        config.train.dynamic_sampling.metric = name
        make_scorer(config)
    config.train.dynamic_sampling.metric = "overlong"
    message = r"a reward of this run, format, .*, total, turns: got 'overlong' \(config.train.dynamic_sampling.metric\)"
    with pytest.raises(ValueError, match=message):
        make_scorer(config)
    config.train.update(unfinished="overlong", overlong_from=10, overlong_to=20)
    make_scorer(config)


@pytest.mark.parametrize(
    "extra",
    [{"rw_mine:turns": "1"}, {"rw_mine:turns": float("nan")}, {" ": 1.0}, "rw_mine:turns", (("a:b", 1), ("a:b", 2))],
)
def test_what_is_no_mapping_of_paths_to_weights_is_refused(extra):
    config = default_config()
    config.rewards.extra = extra
    with pytest.raises(ValueError, match=r"^extra must be of the form .*my_reward.*\(config.rewards.extra\)$"):
        validate(config)


def test_the_mapping_survives_the_work_directory_and_the_command_line(tmp_path, monkeypatch):
    config = default_config()
    config.workdir = str(tmp_path / "run")
    config.rewards.extra = {"my_package.my_module:my_reward": 0.5}
    RunDir(config)
    written = json.loads((tmp_path / "run" / "config.json").read_text())["config"]["rewards.extra"]
    config.rewards.extra = written  # as a reader of config.json sets it
    RunDir(config)
    assert dict(config.rewards.extra) == {"my_package.my_module:my_reward": 0.5}
    config.rewards.extra = {"my_package.my_module:my_reward": 0.25}
    with pytest.raises(ValueError, match="rewards.extra="):
        RunDir(config)
    argv = ["x", "--config.rewards.extra={'a.b:c': 1.0}", "--config.warm_start.chains=jsonl:a/b.jsonl"]
    monkeypatch.setattr(sys, "argv", argv)
    values = flags.FlagValues()
    config_flags.DEFINE_config_dict("config", default_config(), flag_values=values)
    values(argv)
    assert values.config.rewards.extra == (("a.b:c", 1.0),)
    assert values.config.warm_start.chains == ("jsonl:a/b.jsonl",)
