"""Keys and values in fewer bits: what a rollout's log-probs lose by it, and that a fork copies them whole.

The figures of docs come from ``python -m pytest -s tests/steps/small_cache_test.py -k cost``.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arft_jax.models.cache import KVCache
from arft_jax.steps import learner, sampler
from arft_jax.steps.sampler import make_sampler
from arft_jax.testing.babble import LOGPS_TOLERANCE, World, flat
from arft_jax.testing.rows import one_each

DTYPES = ["float32", "bfloat16", "int8", "float8_e4m3fn"]


@pytest.fixture(scope="module")
def world():
    return World()


@pytest.fixture(scope="module")
def played(world):
    """played(dtype) -> (an engine with such a cache, the trajectories that it rolled out)."""
    programs, done = make_sampler(world.graphdef, decode_steps=4, top_k=0, top_p=1.0), {}

    def play(dtype):
        if dtype not in done:
            engine = world.engine(sampler=programs, cache_dtype=dtype)
            done[dtype] = engine, flat(world.run(engine, world.requests))
        return done[dtype]

    return play


@pytest.fixture(scope="module")
def score(world):
    return learner.make_score(world.graphdef, learner.Objective())


# nats a token, mean and largest: what a step of the type leaves in a random model of three layers
@pytest.mark.parametrize(
    ("dtype", "mean", "largest"),
    [
        ("float32", LOGPS_TOLERANCE, LOGPS_TOLERANCE),
        ("bfloat16", 0.01, 0.05),
        ("int8", 0.02, 0.1),
        ("float8_e4m3fn", 0.1, 0.5),
    ],
)
def test_the_cost_of_a_smaller_cache_in_a_rollout(world, played, score, dtype, mean, largest):
    engine, rows = played(dtype)
    assert engine.slots.state.cache.dtype == dtype and len(rows) == len(flat(world.reference))
    assert max(len(t.turns) for t in rows) == 3 and max(len(t.images) for t in rows) > 2
    batch = one_each(rows, world.images_of, length=128, n_chunks=8, bucket=engine.renderer.bucket)
    full = np.asarray(score(world.params, jax.device_put(batch), world.rules.allowed))
    gap = np.abs(full - batch.sampler_logps)[batch.loss_mask]
    print(f"\n{dtype}: {len(gap)} tokens, |sampler - full forward| mean {gap.mean():.2e}, largest {gap.max():.2e} nats")
    assert len(gap) > 150 and gap.mean() < mean and gap.max() < largest
    assert dtype == "float32" or gap.mean() > 10 * LOGPS_TOLERANCE  # the type was used


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_both_forks_copy_a_slot_of_any_type_and_nothing_else(played, dtype, stacked):
    state = played(dtype)[0].slots.state
    if stacked:
        cache = KVCache(*(None if layers is None else jnp.stack(layers) for layers in state.cache))
        state = state._replace(cache=cache)
    source, targets, rows = np.int32(1), np.array([4, 0, 6], np.int32), np.array([1, 2, 9], np.int32)  # 6: none
    before = jax.tree.map(np.asarray, state)
    assert all((np.stack(layers)[:, 1].astype(np.float32) != 0).any() for layers in before.cache if layers is not None)
    begin = np.array([before.length[1], before.next_position[1], before.limit[1]])
    for fork in (sampler.fork_slot, sampler.fork_slot_split):
        after = jax.tree.map(np.asarray, jax.jit(fork)(state, source, targets, rows, begin))
        assert after.row.tolist() == [2, *before.row[1:4], 1, before.row[5]]
        for name, old, new, axis in (
            *((name, getattr(before, name), getattr(after, name), 0) for name in ("tokens", "logps", "length")),
            *((name, getattr(before.cache, name), getattr(after.cache, name), 1) for name in before.cache._fields),
        ):
            if old is not None:
                old, new = (np.stack(array).astype(np.float32) for array in (old, new))
                np.testing.assert_array_equal(new, np.take(old, [1, 1, 2, 3, 1, 5], axis=axis), err_msg=name)
