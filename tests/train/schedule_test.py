"""The learning rate by step."""

import pytest

from arft_jax.train.schedule import learning_rate


def rates(n_steps, **kwargs):
    return [learning_rate(step, n_steps, **kwargs) for step in range(1, n_steps + 1)]


def test_the_worked_example():
    assert rates(4, peak=1.0, warmup_steps=2, decay_to=0.0) == pytest.approx([0.5, 1.0, 0.5, 0.0])


def test_it_rises_to_the_peak_and_falls_to_the_share_that_is_left():
    values = rates(100, peak=3e-3, warmup_steps=10, decay_to=0.1)
    assert values[9] == 3e-3 == max(values) and values[-1] == pytest.approx(3e-4)
    assert all(b > a for a, b in zip(values[:10], values[1:10], strict=False))
    assert all(b < a for a, b in zip(values[9:], values[10:], strict=False))


def test_no_warm_up_and_a_phase_of_one_step():
    assert learning_rate(1, 1, peak=1.0, warmup_steps=0, decay_to=0.1) == pytest.approx(0.1)
    assert learning_rate(1, 10, peak=1.0, warmup_steps=1, decay_to=0.1) == 1.0
    assert rates(2, peak=1.0, warmup_steps=5, decay_to=0.1) == pytest.approx([0.2, 0.4])  # a warm-up never ended


def test_decay_to_one_is_constant_and_peak_zero_is_zero():
    assert rates(7, peak=2.0, warmup_steps=0, decay_to=1.0) == [2.0] * 7
    assert rates(7, peak=0.0, warmup_steps=3, decay_to=0.1) == [0.0] * 7
