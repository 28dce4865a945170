"""The logits of transformers on random weights, in float32, for every kind of batch."""

import numpy as np
import pytest

from arft_jax.testing import parity

pytestmark = pytest.mark.torch
LOGITS = ("logits, worse of tied and untied, float32", "max |theirs|", "max difference", "tolerance")
ids = {"ids": lambda value: value.name if isinstance(value, parity.Case) else None}


@pytest.mark.parametrize("case", parity.CASES, **ids)
def test_logits_equal_those_of_transformers(case, pair, expected, run_ours, parity_table):
    inputs = parity.make_inputs(parity.make_batch(case, pair.ours.config), pair.ours.config)
    ours, theirs = run_ours(parity.our_logits, inputs)[inputs.valid], expected(case)["logits"]
    assert ours.shape == theirs.shape == (sum(map(len, parity.make_batch(case, pair.ours.config).rows)), 1040)
    assert np.abs(theirs).max() > 1.0  # the weights are not so small that anything passes
    gap, limit = np.abs(ours - theirs).max(), parity.tolerance(theirs)
    parity_table.add(LOGITS, case.name, np.abs(theirs).max(), gap, limit)
    assert gap <= limit


@pytest.mark.parametrize("offset", [8_000, 32_000])
@pytest.mark.parametrize("pair", [True], indirect=True, ids=["tied"])
def test_logits_equal_at_the_far_end_of_the_context(pair, offset, run_ours, parity_table):
    batch = parity.make_batch(parity.CASES[-2], pair.ours.config)
    theirs = parity.their_stages(pair.theirs, batch, offset)["logits"]
    inputs = parity.make_inputs(batch, pair.ours.config)
    inputs = inputs._replace(positions=inputs.positions + np.int32(offset))
    gap = np.abs(run_ours(parity.our_logits, inputs)[inputs.valid] - theirs).max()
    parity_table.add(LOGITS, f"positions from {offset} on", np.abs(theirs).max(), gap, parity.tolerance(theirs))
    assert gap <= parity.tolerance(theirs)


def test_cases_cover_what_they_promise():
    n_images = [[sum(not isinstance(piece, str) for piece in row) for row in case.rows] for case in parity.CASES]
    assert {0, 1, 2, 5} <= {n for row in n_images for n in row} and [0, 1, 2, 5] in n_images
    assert {case.padding for case in parity.CASES} == {"left", "right", "packed"}
    assert any(not case.rows[0][0].isascii() for case in parity.CASES if isinstance(case.rows[0][0], str))
    assert len({case.name for case in parity.CASES}) == len(parity.CASES)


def test_the_tolerance_grows_with_the_values_and_with_nothing_else():
    assert parity.tolerance(np.array([-0.2])) == 1e-4
    assert parity.tolerance(np.array([3.0, -7.0])) == pytest.approx(7e-4)
