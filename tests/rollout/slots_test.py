"""The owner of the device state: what its calls leave in the slots, and sizes that do not belong together."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arft_jax.models.cache import init_cache
from arft_jax.rollout.slots import SlotMachine
from arft_jax.steps.sampler import DecodeReport, Rules, Sampler
from arft_jax.steps.state import FREE, RUNNING, init_state
from arft_jax.testing.scripted import CACHE_SIZES
from arft_jax.testing.tiny_rollout import LIMITS

RULES = Rules(*(np.zeros(1, np.int32),) * 4)


def empty_state(n_slots=LIMITS.n_slots, max_tokens=LIMITS.max_tokens, n_features=LIMITS.n_features):
    return init_state(init_cache(CACHE_SIZES, n_slots, max_tokens), n_features, 1)


class Programs:
    """Stands in for compiled programs: notes its calls, and counts them in the state's lengths."""

    def __init__(self):
        self.calls = []
        self.sampler = Sampler(self.encode, self.extend, self.fork, self.decode, self.decode, lambda params: params, 4)

    def _next(self, name, state, *noted):
        self.calls.append((name, *noted))
        return state._replace(length=state.length + 1)

    def encode(self, params, state, patches, layout, rows):
        return self._next("encode", state, rows.tolist())

    def extend(self, params, state, extension, columns):
        return self._next("extend", state, extension.slots.tolist(), columns)

    def fork(self, state, source, targets, rows, begin):
        return self._next("fork", state, int(source), targets.tolist(), rows.tolist(), begin.tolist())

    def decode(self, params, state, rules, keys, temperature, columns):
        state = self._next("decode", state, temperature, columns)
        return state, DecodeReport(state.status, state.stop_code, state.length, None, None)


@pytest.fixture
def programs():
    return Programs()


def machine(programs, **options):
    return SlotMachine(programs.sampler, empty_state(), RULES, LIMITS, **options)


def test_every_call_hands_the_newest_state_on_and_reads_as_many_columns_as_it_must(programs):
    slots = machine(programs, bucket_columns=48)
    slots.encode(None, np.zeros((1, 2, 3)), (), np.array([4, 5]))
    slots.extend(None, slots.empty_extension(), 48)
    slots.fork(2, [0], [1], np.array([7, 8, 9], np.int32))
    report = slots.decode(None, slots.put(np.zeros((LIMITS.n_slots, 2), np.uint32)), 0.5, 97)
    none = LIMITS.n_slots  # what fills up a call
    assert programs.calls == [
        ("encode", [4, 5]),
        ("extend", [none] * LIMITS.extend_rows, 48),
        ("fork", 2, [0, none], [1, 0], [7, 8, 9]),  # groups of three: two targets a call
        ("decode", 0.5, LIMITS.max_tokens),
    ]
    assert np.asarray(slots.state.length).tolist() == np.asarray(report.length).tolist() == [4] * LIMITS.n_slots


def test_the_state_is_nobody_elses_to_assign(programs):
    slots = machine(programs)
    with pytest.raises(AttributeError):
        slots.state = empty_state()


def test_only_the_named_slots_run_and_where_the_status_lies_stays(programs):
    slots = machine(programs)
    sharding = slots.state.status.sharding
    with jax.transfer_guard("disallow"):  # as in a training step
        slots.set_running({1, 4})
    assert np.flatnonzero(np.asarray(slots.state.status) == RUNNING).tolist() == [1, 4]
    slots.set_running([2])
    assert np.flatnonzero(np.asarray(slots.state.status) == RUNNING).tolist() == [2]
    slots.free_all()
    assert set(np.asarray(slots.state.status).tolist()) == {FREE} and slots.state.status.sharding == sharding
    assert slots.state.status.dtype == jnp.int32


def test_warm_up_compiles_each_number_of_columns_once_a_temperature(programs):
    slots = machine(programs, bucket_columns=48)
    slots.warm_up(None, 1.0)
    slots.warm_up(None, 0.0)
    slots.warm_up(None, 1.0)
    columns = [48, 96, 128]
    assert [call[2] for call in programs.calls if call[0] == "extend"] == columns
    assert [call[1:] for call in programs.calls if call[0] == "decode"] == [(t, n) for t in (1.0, 0.0) for n in columns]
    whole = machine(other := Programs())
    whole.warm_up(None, 1.0)  # one program each, compiled by the first call
    assert other.calls == [] and whole.columns_for(7) is None


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (dict(n_slots=5), r"got 5 slots of 128 tokens and 64 feature rows, n_slots=6, max_tokens=128, n_features=64"),
        (dict(max_tokens=64), r"got 6 slots of 64 tokens and 64 feature rows, .* \(config.rollout\)"),
        (dict(n_features=63), r"got 6 slots of 128 tokens and 63 feature rows"),
    ],
    ids=str,
)
def test_a_state_of_other_sizes_than_the_limits_is_refused(programs, sizes, message):
    with pytest.raises(ValueError, match=message):
        SlotMachine(programs.sampler, empty_state(**sizes), RULES, LIMITS)
    fitting = dataclasses.replace(LIMITS, **sizes)
    assert SlotMachine(programs.sampler, empty_state(**sizes), RULES, fitting).limits == fitting


def test_a_negative_number_of_columns_is_refused(programs):
    with pytest.raises(ValueError, match=r"bucket_columns must be at least 0: got -1 \(config.rollout.bucket_columns"):
        machine(programs, bucket_columns=-1)
