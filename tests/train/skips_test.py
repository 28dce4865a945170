"""A run whose gradients are not finite any more ends, says where, and leaves its last checkpoint whole."""

import math

import jax.numpy as jnp
import pytest

from arft_jax.io.checkpoints import Checkpoints
from arft_jax.io.seal import is_sealed
from arft_jax.train.skips import SkipLimit

GOOD = {"skipped": 0.0, "grad_norm": 0.5, "loss": 0.1}
BAD = {"skipped": 1.0, "grad_norm": math.nan, "loss": math.inf, "kl_ref": 1.0}


@pytest.fixture
def checkpoints(tmp_path):
    with Checkpoints(tmp_path / "checkpoints") as opened:
        yield opened


def test_so_many_in_a_row_end_the_run_with_step_statistic_and_last_checkpoint(checkpoints):
    skips = SkipLimit(3)
    skips.check([BAD, BAD], "grpo step 1 of 9", checkpoints)
    skips.check([GOOD, BAD], "grpo step 2 of 9", checkpoints)  # a finite one begins the row again
    checkpoints.save(2, {"x": jnp.ones(3)}, {})  # its files are written behind it
    with pytest.raises(ValueError) as error:
        skips.check([BAD, BAD, GOOD], "grpo step 3 of 9", checkpoints)
    assert str(error.value) == (
        "gradients must be finite: got 3 in a row that were not, whose updates were skipped, the last at grpo step 3 "
        f"of 9 (grad_norm=nan, loss=inf); the last checkpoint is that of step 2 in {checkpoints.directory}, from which "
        "the same command resumes (config.train.max_skipped)"
    )
    assert is_sealed(checkpoints.directory / "steps" / "2")


def test_before_the_first_checkpoint_the_run_begins_anew(checkpoints):
    with pytest.raises(ValueError, match=r"warm start step 1 of 2 \(.*\); there is no checkpoint yet, so the same com"):
        SkipLimit(1).check([BAD], "warm start step 1 of 2", checkpoints)


def test_zero_ends_no_run(checkpoints):
    SkipLimit(0).check([BAD] * 100, "grpo step 1 of 9", checkpoints)
