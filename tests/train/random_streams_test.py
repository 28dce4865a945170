"""Keys of the random streams: their values are part of every result."""

import numpy as np
import pytest

from arft_jax.config import default_config
from arft_jax.config_checks import validate
from arft_jax.train.random_streams import Stream, stream_generator, stream_key


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
