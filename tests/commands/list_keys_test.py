"""The list of configuration keys: complete, commented, and telling what a config changes."""

import pathlib

from arft_jax import config as config_module
from arft_jax.commands import list_keys
from arft_jax.config import default_config

SOURCE = '''
def _part():
    """A part of it."""
    inner = dict(
        x=1,  # of the inner one
        y=2,
    )
    return ConfigDict(dict(inner=inner, free={}))  # shared by a line

def default_config():
    config = ml.ConfigDict(
        dict(
            # alone, on
            # two lines
            a=1,
            b=(
                1,
                2,
            ),  # behind the value
            c=3,  # fmt: skip
            part=_part(),
            group=dict(d=4),  # of the group
        )
    )
    config.lock()
    return config
'''


def test_a_comment_is_found_wherever_it_may_stand():
    assert list_keys.read_comments(SOURCE) == {
        "a": "alone, on two lines",
        "b": "behind the value",
        "c": "",
        "part": "A part of it.",
        "part.inner": "shared by a line",
        "part.inner.x": "of the inner one",
        "part.inner.y": "",
        "part.free": "shared by a line",
        "group": "of the group",
        "group.d": "of the group",
    }


def test_every_key_has_a_comment_and_every_comment_a_key():
    comments = list_keys.read_comments(pathlib.Path(config_module.__file__).read_text(encoding="utf-8"))
    keys = list_keys.config_keys()
    assert [key for key in keys if not comments.get(key)] == []
    groups = {key[:i] for key in keys for i, letter in enumerate(key) if letter == "."}
    assert set(comments) == {*keys, *groups}


def test_the_list_has_every_key_once_with_its_default():
    lines = list_keys.format_keys().splitlines()
    shown = [line.split(" = ")[0].strip() for line in lines if " = " in line]
    assert sorted(shown) == sorted(list_keys.config_keys())
    assert "  train.steps = 100  # GRPO steps" in lines and not any(line.startswith("*") for line in lines)
    assert lines.index("[train]  GRPO: steps, optimiser and loss.") < lines.index("  train.steps = 100  # GRPO steps")


def test_what_a_config_changes_is_marked_with_the_default_behind_it():
    config = default_config()
    config.train.steps = 7
    with config.unlocked():
        config.rewards.mine = 1.0
    lines = list_keys.format_keys(config).splitlines()
    assert "* train.steps = 7  (default: 100)  # GRPO steps" in lines
    assert "* rewards.mine = 1.0  (no default)" in lines
    assert sum(line.startswith("* ") for line in lines) == 3 and lines[-1] == "* differs from the default"


def test_a_key_that_is_left_to_the_objective_shows_the_named_value():
    config = default_config()
    config.train.update(objective="gspo", beta=0.1)
    lines = {line[2:].partition(" = ")[0]: line for line in list_keys.format_keys(config).splitlines() if " = " in line}
    assert " None (0.0003 of objective 'gspo')  #" in lines["train.epsilon_low"]
    assert lines["train.beta"].startswith("* train.beta = 0.1  (default: None)")
    config.train.objective = "ppo"  # refused elsewhere
    assert "train.epsilon_low = None  #" in list_keys.format_keys(config)
