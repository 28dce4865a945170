"""Sums over the trajectories of packed rows."""

import jax.numpy as jnp
import numpy as np

from arft_jax.rl import segments

VALUES = jnp.asarray([[1.0, 2.0, 3.0, 4.0], [5.0, jnp.nan, 7.0, 8.0]])
MASK = jnp.asarray([[True, True, False, True], [True, False, True, True]])
IDS = jnp.asarray([[0, 0, 1, 1], [0, -1, 2, 2]], jnp.int32)  # row 1 has no token of trajectory 1


def test_sums_are_those_of_each_rows_own_trajectories():
    np.testing.assert_array_equal(segments.segment_sums(VALUES, MASK, IDS), [[3, 4, 0, 0], [5, 0, 15, 0]])
    np.testing.assert_array_equal(segments.segment_sums(VALUES, MASK, None), [[7], [20]])
    np.testing.assert_array_equal(segments.n_tokens_of(MASK, IDS), [[2, 1, 0, 0], [1, 0, 2, 0]])


def test_every_masked_token_gets_its_trajectorys_figure():
    sums = segments.segment_sums(VALUES, MASK, IDS)
    np.testing.assert_array_equal(segments.spread(sums, MASK, IDS), [[3, 3, 0, 4], [5, 0, 15, 15]])
    whole = segments.segment_sums(VALUES, MASK, None)
    np.testing.assert_array_equal(segments.spread(whole, MASK, None), [[7, 7, 0, 7], [20, 0, 20, 20]])


def test_what_stands_off_the_mask_is_no_number_either():
    ids = jnp.where(MASK, IDS, jnp.int32(-1000))
    np.testing.assert_array_equal(segments.segment_sums(VALUES, MASK, ids), segments.segment_sums(VALUES, MASK, IDS))
