"""What a configuration's objective resolves to, and the page that says so."""

import re

import pytest
from absl import flags
from ml_collections import config_flags

from arft_jax.config import default_config
from arft_jax.config_checks import validate
from arft_jax.objective_keys import DEFAULT, NAMED, ObjectiveKeys, filled, resolved


def test_the_default_configuration_is_the_default_objective():
    config = default_config()
    assert config.train.objective == DEFAULT and resolved(config) == NAMED[DEFAULT]
    assert all(config.train[key] is None for key in ObjectiveKeys._fields)


@pytest.mark.parametrize("name", NAMED)
def test_a_named_objective_is_complete_and_contradicts_nothing(name):
    config = default_config()
    config.train.objective = name
    validate(config)
    assert resolved(config) == NAMED[name] and None not in resolved(config)


OWN = ObjectiveKeys(  # nothing of it is gspo's
    ratio="token", surrogate="cispo", epsilon_low=0.1, epsilon_high=0.1, dual_clip=2.0, aggregation="token",
    divisor_len=3, baseline="none", scale_advantages="batch", kl="k1", kl_in="reward", beta=0.2, entropy_bonus=0.1,
    importance="token", importance_mode="mask", importance_floor=0.5, importance_cap=3.0,
)  # fmt: skip


@pytest.mark.parametrize("key", ObjectiveKeys._fields)
def test_a_key_that_is_set_wins_over_the_named_one_also_where_it_is_set_first(key):
    config, value = default_config(), getattr(OWN, key)
    config.train[key] = value
    config.train.objective = "gspo"
    assert value != getattr(NAMED["gspo"], key)
    assert resolved(config) == NAMED["gspo"]._replace(**{key: value})


def test_a_key_set_to_nothing_counts_0_as_a_value():
    config = default_config()
    config.train.update(objective="grpo", beta=0.0)
    assert resolved(config).beta == 0.0
    config.train.beta = None
    assert resolved(config).beta == 0.04


def test_the_filled_copy_leaves_the_configuration_alone():
    config = default_config()
    config.rewards.extra = {"my_module:my_reward": 1.0}
    config.train.objective = "gspo"
    copy = filled(config)
    assert copy.train.epsilon_low == 3e-4 and config.train.epsilon_low is None
    assert copy.rewards.extra == config.rewards.extra == (("my_module:my_reward", 1.0),)


def test_overrides_of_the_command_line_are_typed():
    values = flags.FlagValues()
    arguments = ["train", "--config.train.objective=gspo", "--config.train.epsilon_low=1e-3", "--config.train.beta=0"]
    config_flags.DEFINE_config_dict("config", default_config(), flag_values=values, sys_argv=arguments)
    values(arguments)
    keys = resolved(values.config)
    assert (keys.ratio, keys.epsilon_low, keys.epsilon_high, keys.beta) == ("sequence", 1e-3, 4e-4, 0.0)
    with pytest.raises(TypeError):
        values.config.train.epsilon_low = "low"


def test_an_unknown_objective_is_an_error():
    config = default_config()
    config.train.objective = "ppo"
    with pytest.raises(ValueError, match=r"objective must be one of grpo, .*: got 'ppo' \(config.train.objective\)"):
        resolved(config)


# ---------------------------------------------------------------- docs/objectives.md


def page(repo_root):
    return (repo_root / "docs" / "objectives.md").read_text(encoding="utf-8")


def test_the_table_of_the_page_is_the_code(repo_root):
    rows = [
        [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        for line in page(repo_root).splitlines()
        if line.startswith(("| `", "| key"))
    ]
    table = {row[0]: row[1:] for row in rows}
    assert table.pop("key") == list(NAMED)
    assert table == {key: [f"{getattr(keys, key)}" for keys in NAMED.values()] for key in ObjectiveKeys._fields}


def test_every_objective_has_its_section_with_equation_and_source(repo_root):
    sections = re.split(r"^### ", page(repo_root), flags=re.MULTILINE)[1:]
    titles = [name for section in sections for name in re.findall(r"`(\w+)`", section.splitlines()[0])]
    assert [name for name in titles if name in NAMED] == list(NAMED)
    for section in sections:
        assert re.search(r"arXiv \d{4}\.\d{5}", section) and re.search(r"^    ", section, re.MULTILINE), section[:30]
