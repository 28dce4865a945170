"""Keys of the random streams: their values are part of every result."""

import numpy as np
import pytest

from arft_jax.config import default_config
from arft_jax.config_checks import validate
from arft_jax.train.random_streams import Stream, group_number, stream_generator, stream_key, task_place


def test_a_key_names_seed_stream_and_step():
    assert stream_key(3, Stream.EVALUATION, 5).tolist() == [3 * 8 + 2, 5]
    assert stream_key(0, Stream.ROLLOUT, 7).tolist() == [0, 7] and stream_key(0, Stream.ROLLOUT, 7).dtype == np.uint32
    keys = {tuple(stream_key(seed, stream, step)) for seed in range(3) for stream in Stream for step in range(3)}
    assert len(keys) == 3 * len(Stream) * 3


def test_a_seed_that_has_no_key_is_refused_before_any_compute():
    config = default_config()
    config.seed = 2**29 - 1
    validate(config)
    assert stream_key(config.seed, max(Stream), 1)[0] == 2**32 - 8 + max(Stream)
    for seed in (-1, 2**29):
        config.seed = seed
        with pytest.raises(ValueError, match=rf"seed must lie in \[0, 2\*\*29\): got {seed} \(config.seed\)"):
            validate(config)


def test_host_draws_follow_from_seed_stream_and_step():
    want = np.random.default_rng([4, 1, 9]).permutation(20)
    np.testing.assert_array_equal(stream_generator(4, Stream.WARM_START, 9).permutation(20), want)


def test_a_group_has_the_number_of_its_task_and_one_further_on_where_the_task_comes_again():
    sizes = (3, 5)
    assert [group_number(sizes, 1, 2, k) for k in range(3)] == [5, 15, 25]  # (2 + 5 k) * 2 + 1
    assert [group_number(sizes, 0, index) for index in range(3)] == [0, 2, 4]
    assert [task_place(sizes, number) for number in (5, 15, 25, 0, 6, 4)] == [(1, 2)] * 3 + [(0, 0), (0, 0), (0, 2)]


def test_no_two_groups_of_a_step_have_one_number_and_each_number_names_its_task():
    sizes = (1, 4, 7)
    groups = [(place, index, k) for place in range(3) for index in range(sizes[place]) for k in range(9)]
    numbers = [group_number(sizes, *group) for group in groups]
    assert len(set(numbers)) == len(groups)
    assert [task_place(sizes, number) for number in numbers] == [group[:2] for group in groups]
