"""What a misspelt name is answered with."""

import pytest

from arft_jax.commands import list_keys, suggest

KEYS = list_keys.config_keys()


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("train.stepz", ["train.steps"]),
        ("trane.steps", ["train.steps"]),
        ("warm_strat.steps", ["warm_start.steps"]),
        ("train.lr", ["train.learning_rate"]),  # what others call it
        ("warm_start.lr", ["warm_start.learning_rate"]),
        ("lr", ["train.learning_rate", "warm_start.learning_rate"]),  # training first
        ("train.group_size", ["rollout.group_size"]),  # another group's
        ("num_generations", ["rollout.group_size"]),
        ("model.lora_r", ["model.lora.rank"]),
        ("trane", ["train"]),  # a group
        ("wieghts", ["weights"]),
        ("colour", []),
    ],
)
def test_a_misspelt_key_means_the_nearest(key, meant):
    assert suggest.nearest_keys(key, KEYS) == meant


def test_every_alias_names_a_key():
    assert set(suggest.ALIASES.values()) <= {key.rpartition(".")[2] for key in KEYS}


def test_a_question_lists_what_may_be_meant():
    assert suggest.question([]) == "" and suggest.question(["a", "b"]) == "; did you mean 'a' or 'b'?"
