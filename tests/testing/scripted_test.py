"""The scripted policy says its script, whatever stands between its turns."""

import jax
import numpy as np
import pytest

from arft_jax.data.tokenizer import Tokenizer
from arft_jax.testing import tiny_rollout as tiny
from arft_jax.testing.scripted import scripted
from arft_jax.trajectory import Observation, Status

SIZES = dict(vocab_size=50, end=9, n=3, prompt_len=16, script_len=8)


def test_scripts_are_padded_with_the_end_and_bounded():
    _, params = scripted([[1, 2], [3]], [[4, 5], [6]], **SIZES)
    np.testing.assert_array_equal(params["scripts"][...][:2], [[4, 5, 9, 9, 9, 9, 9, 9], [6] + [9] * 7])
    with pytest.raises(ValueError, match="3 at most: got 4 and 4"):
        scripted([[1]] * 4, [[1]] * 4, **SIZES)
    with pytest.raises(ValueError, match="must fit 16 and 7 tokens"):
        scripted([[1]], [[1] * 8], **SIZES)


def test_rows_say_the_script_of_their_prompt_past_observations_of_any_length():
    stage = tiny.Stage(Tokenizer.tiny(), n_slots=2, group_size=2, extend_chunk=8, max_turn_tokens=32, max_tokens=256)
    a, b = tiny.tiny_task(1), tiny.tiny_task(2, sizes=[(56, 56)])
    search, answer = "<search>fox {}</search>", "<answer>{}</answer>"
    scripts = [(a, [search.format(1), answer.format("one")]), (b, [search.format(2)] * 2 + [answer.format("two")])]
    lengths = iter([1, 9, 30, 2, 17, 5])
    tools = tiny.InstantTools(lambda *_: Observation("word " * next(lengths)))
    groups = stage.play(scripts, tools, n_rows=2)
    for (_, turns), group in zip(scripts, groups, strict=True):
        for t in group:
            assert [turn.text for turn in t.turns] == turns and t.status is Status.ANSWERED
    other = tiny.tiny_task(3)
    [[t]] = stage.engine.run(
        stage.params(scripts), [tiny.Request(other, 0, 1)], tools, rng=jax.random.key(0), temperature=1.0
    )
    assert t.tokens[t.prompt_len :].tolist() == [stage.tokenizer.eos_id]  # a prompt of no script
