"""Outages of a search service in real rollouts: noticed soon, cheap meanwhile, never scored, soon forgotten.

The short version has two faults and times scaled down; ``-m slow`` has them all, with the times of the default config.
"""

import dataclasses

import pytest

from arft_jax.testing import outage_drill
from arft_jax.testing.fault_server import FAULTS

MAX_RATIO = 1.2  # to a step whose tools answer at once with an error
MAX_OPENED_S, MAX_CLOSED_S = 5.0, 15.0


def check(outcome):
    print("\n" + outage_drill.table([outcome]))
    assert outcome.well_before and outcome.well_after
    assert outcome.n_infra > 0 and outcome.n_leaked == 0
    assert outcome.n_trapped == 0
    assert outcome.opened_s <= MAX_OPENED_S and outcome.closed_s <= MAX_CLOSED_S


@pytest.fixture(scope="module")
def quick():
    return outage_drill.Stand(decode_s=0.02, n_thoughts=24, n_prompts=8)


@pytest.mark.parametrize("fault", ["black_hole", "half_slow"])
def test_an_outage_is_noticed_survived_and_forgotten(quick, fault):
    policy = dataclasses.replace(outage_drill.default_policy(), try_s=0.25, pause_s=0.1, open_s=0.2)
    outcome = outage_drill.drill(quick, fault, policy)
    check(outcome)
    assert outcome.cost_s <= 1.5  # two tries of 0.25 s, a pause, and what a busy machine adds


@pytest.fixture(scope="module")
def real():
    return outage_drill.Stand(decode_s=0.45)


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_an_outage_costs_a_step_a_fifth_at_most(real, fault):
    outcome = outage_drill.drill(real, fault, outage_drill.default_policy())
    check(outcome)
    assert outcome.ratio <= MAX_RATIO
    assert outcome.cost_s <= 10.0 and outcome.open_s <= MAX_RATIO * outcome.fault_s
