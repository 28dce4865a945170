"""The one sentence that a wrong flag costs."""

import pytest
from absl import flags

from arft_jax.commands.config_flag import sentence as make_sentence

TRACE = """flag --config=x: Error whilst parsing:

Traceback (most recent call last):
  File "a.py", line 1
ValueError: too big
"""
CASES = [
    (flags.IllegalFlagValueError(TRACE), "too big"),
    (flags.Error("flag --a=b: no\n number"), "flag --a=b: no number"),
    (
        KeyError('\'trane\'\nDid you mean "train" instead of "trane"?'),
        "the configuration has no key 'trane'; did you mean 'train'?",
    ),
    (AttributeError(KeyError("'zzz'")), "the configuration has no key 'zzz'"),
    (
        KeyError("'num_generations'"),  # in a file
        "the configuration has no key 'num_generations'; did you mean 'rollout.group_size'?",
    ),
    (
        OSError("Attempted:\n  a.py\n  [Errno 2] No such file"),
        "the configuration file must be readable: [Errno 2] No such file",
    ),
    (TypeError(), "TypeError"),
]


@pytest.mark.parametrize(("error", "sentence"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_an_error_becomes_one_sentence(error, sentence):
    assert make_sentence(error) == sentence
