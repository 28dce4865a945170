import numpy as np
import pytest

from arft_jax import protocol
from arft_jax.data.synthetic import degrade, draw

CARDS = [(draw.random_card(np.random.default_rng(i)), np.random.default_rng(i)) for i in range(6)]


def mean_error(a, b):
    return np.abs(a.astype(float) - b.astype(float)).mean()


@pytest.mark.parametrize("kinds", [k for k in degrade.PROBLEM_SETS if k not in (("none",), ("crop",))])
def test_repair_brings_the_picture_back(fakes, kinds):
    """At most 0.65 of the error left, and at most 45 grey levels; 8-bit rounding included."""
    for card, rng in CARDS:
        clean = draw.draw_card(card, rng)
        spoilt = degrade.degrade_all(clean, kinds, rng)
        repaired = fakes.run_code(degrade.repair_code(kinds), spoilt)
        assert repaired.shape == clean.shape
        before, after = mean_error(clean, spoilt), mean_error(clean, repaired)
        assert before > 15
        assert after < min(0.65 * before, 45), kinds


@pytest.mark.parametrize("kinds", degrade.PAIRS)
def test_half_a_repair_is_not_enough(fakes, kinds):
    card, rng = CARDS[0]
    clean = draw.draw_card(card, rng)
    spoilt = degrade.degrade_all(clean, kinds, rng)
    whole = mean_error(clean, fakes.run_code(degrade.repair_code(kinds), spoilt))
    for kind in kinds:
        assert mean_error(clean, fakes.run_code(degrade.repair_code((kind,)), spoilt)) > whole + 5


def test_rotation_is_clockwise_and_undone_exactly(fakes):
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    turned = degrade.degrade(pixels, "rotation90", np.random.default_rng(0))
    np.testing.assert_array_equal(turned[0, -1], pixels[0, 0])  # the upper left corner goes to the upper right
    np.testing.assert_array_equal(fakes.run_code(degrade.repair_code(("rotation90",)), turned), pixels)


def test_crop_code_cuts_the_box(fakes):
    sheet = np.random.default_rng(0).integers(0, 256, (168, 168, 3), dtype=np.uint8)
    box = (500, 0, 1000, 500)
    cut = fakes.run_code(degrade.repair_code(("crop",), box), sheet)
    np.testing.assert_array_equal(cut, sheet[:84, 84:])
    np.testing.assert_array_equal(cut, degrade.crop_box(sheet, box))


def test_problem_sets_are_the_eight_kinds_and_eight_pairs():
    assert len(degrade.PROBLEM_SETS) == len(set(degrade.PROBLEM_SETS)) == 16
    assert {kind for kinds in degrade.PROBLEM_SETS for kind in kinds} == set(protocol.KINDS)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="box"):
        degrade.repair_code(("crop",))
    with pytest.raises(ValueError, match="fog"):
        degrade.repair_code(("fog",))
    with pytest.raises(ValueError, match="fog"):
        degrade.degrade(np.zeros((2, 2, 3), np.uint8), "fog", np.random.default_rng(0))
