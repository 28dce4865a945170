"""What a trajectory may depend on, and what trainer and sampler must agree on: the last cases of sampler_test."""

import os
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest

from arft_jax.rollout.request import Request
from arft_jax.steps import learner
from arft_jax.steps.sampler import make_sampler
from arft_jax.testing import tiny_rollout as tiny
from arft_jax.testing.babble import LOGPS_TOLERANCE, World, assert_same, flat, record, reply
from arft_jax.testing.rows import one_each
from arft_jax.trajectory import Observation


@pytest.fixture(scope="module")
def world():
    return World()


RESTART = """
    import sys
    import jax, numpy as np

    cache, out = sys.argv[1:]
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_compilation_cache_dir", cache or None)
    from arft_jax.testing import babble

    np.savez(out, **babble.record(babble.World().reference))
"""


def test_two_fresh_processes_give_the_same_bits_as_this_one(world, tmp_path):
    """Each with an order of its sets of its own; the second reads no compiled program."""
    here, outs, started = record(world.reference), [tmp_path / f"{i}.npz" for i in range(2)], []
    for i, out in enumerate(outs):
        env = dict(os.environ, JAX_PLATFORMS="cpu", PYTHONPATH=os.pathsep.join(sys.path), PYTHONHASHSEED=str(i + 1))
        cache = str(jax.config.jax_compilation_cache_dir) if i == 0 else ""
        command = [sys.executable, "-c", textwrap.dedent(RESTART), cache, str(out)]
        started.append(subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True))
    for process in started:
        errors = process.communicate(timeout=240)[1]
        assert process.returncode == 0, errors[-4000:]
    assert len(here) > 5 and here["tokens"].size > 1000
    for out in outs:
        with np.load(out) as got:
            assert set(got.files) == set(here)
            for name, want in here.items():
                np.testing.assert_array_equal(got[name], want, err_msg=name)


def test_one_slot_and_64_slots_give_the_same_tokens(world):
    requests = [Request(task, 10 + i, 1) for i, task in enumerate(world.tasks)]
    one = flat(world.run(world.engine(n_slots=1, extend_rows=1), requests))
    many = flat(world.run(world.engine(n_slots=64, extend_rows=16), world.requests))
    # not the same bits: XLA's product of one row and of 64 adds up in another order, up to 2e-6 in a log-prob
    assert_same(one, many[:: world.requests[0].n_rows])


@pytest.fixture(scope="module")
def shown(world):
    """Rows of 1, 3 and 6 images, some of them shown by tools."""
    tasks = [tiny.tiny_task(i, sizes=[(28, 28), (28, 56), (28, 28)][: 1 + i % 3] * (1 + (i == 5))) for i in range(9)]
    two = (tiny.tiny_image(91), tiny.tiny_image(92, 56, 28))
    tools = tiny.InstantTools(lambda *_: Observation("two", two))
    engine = world.engine(max_tokens=192)
    rows = flat(world.run(engine, [Request(task, i, 3) for i, task in enumerate(tasks)], tools))
    return engine, [t for t in rows if len(t.images) in (1, 3, 6)]


@pytest.fixture(scope="module")
def plain_score(world):
    return learner.make_score(world.graphdef, learner.Objective())


def _gap(world, rows, score, length=192):
    """float[B]: largest |sampler - full forward| of each row."""
    batch = one_each(rows, world.images_of, length=length, n_chunks=8, bucket=world.bucket)
    logps = np.asarray(score(world.params, jax.device_put(batch), world.rules.allowed))
    return np.abs(np.where(batch.loss_mask, logps - batch.sampler_logps, 0.0)).max(axis=1)


def test_sampler_logps_equal_a_full_forward_with_1_3_and_6_images(world, plain_score, shown):
    rows = shown[1]
    gap, n = _gap(world, rows, plain_score), np.array([len(t.images) for t in rows])
    later = np.array([len(t.images) > len(t.task.images) for t in rows])
    assert {1, 3, 6} == set(n.tolist()) and {3, 6} <= set(n[later].tolist()) and 6 in n[~later]
    assert all(gap[n == k].max() < LOGPS_TOLERANCE for k in (1, 3, 6)), gap


# temperature alone: sampler_test
@pytest.mark.parametrize("settings", [(1.0, 5, 1.0), (1.0, 0, 0.8), (1.3, 20, 0.9)], ids=str)
def test_trainer_and_sampler_have_one_distribution(world, plain_score, settings):
    temperature, top_k, top_p = settings
    sampler = make_sampler(world.graphdef, decode_steps=4, top_k=top_k, top_p=top_p)
    engine = world.engine(sampler=world.programs._replace(decode=sampler.decode))
    rows = flat(world.run(engine, world.requests[:4], tiny.InstantTools(reply), temperature=temperature))
    own = learner.Objective(temperature=temperature, top_k=top_k, top_p=top_p)
    assert _gap(world, rows, learner.make_score(world.graphdef, own), length=128).max() < LOGPS_TOLERANCE
    assert _gap(world, rows, plain_score, length=128).max() > 0.05  # what the whole distribution would say
