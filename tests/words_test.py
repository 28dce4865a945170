"""Closed words: each is a key of the configuration, its default is among them, and every other one is refused."""

import pytest

from arft_jax.config import default_config
from arft_jax.config_checks import validate
from arft_jax.words import OF_KEY


@pytest.mark.parametrize("key", OF_KEY)
def test_a_word_that_is_not_on_the_list_is_refused_with_the_list(key):
    config = default_config()
    *parents, name = key.split(".")
    part = config
    for parent in parents:
        part = part[parent]
    assert part[name] in OF_KEY[key] or part[name] is None  # as the objective says
    part[name] = "nonesuch"
    first, last = OF_KEY[key][0], OF_KEY[key][-1] or "empty"
    with pytest.raises(ValueError, match=rf"{name} must be {first}.* or {last}: got 'nonesuch' \(config.{key}\)"):
        validate(config)
