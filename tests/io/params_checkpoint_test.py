"""Parameters read out of a checkpoint that belongs to someone else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from arft_jax.io import params_checkpoint
from arft_jax.io.checkpoints import Checkpoints


def _params(seed=0, width=3):
    model = nnx.Linear(width, 4, rngs=nnx.Rngs(seed), param_dtype=jnp.bfloat16)
    return nnx.state(model, nnx.Param)


@pytest.fixture
def folder(tmp_path):
    with Checkpoints(tmp_path / "run", keep=5) as store:
        for step in (3, 12):
            store.save(step, {"params": _params(step), "opt_state": jnp.zeros(1000)}, {"step": step})
    return tmp_path / "run"


def _listing(folder):
    return sorted((str(path), path.stat().st_mtime_ns) for path in folder.rglob("*"))


def test_the_newest_parameters_come_back_without_the_rest_and_nothing_is_touched(folder):
    (folder / "steps" / "15.orbax-checkpoint-tmp-1").mkdir()  # a save in progress
    (folder / "steps" / "14").mkdir()  # a save that is not sealed yet
    before = _listing(folder)
    step = params_checkpoint.newest_good_step(folder)
    assert step == 12 and params_checkpoint.read_host(folder, step) == {"step": 12}
    got = params_checkpoint.read_params(folder, step, jax.eval_shape(_params))
    assert jax.tree.structure(got) == jax.tree.structure(_params())
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(_params(12)), strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_array_equal(a, b)
    assert _listing(folder) == before


def test_a_damaged_step_is_passed_over(folder):
    victim = max((p for p in (folder / "steps" / "12").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    victim.write_bytes(victim.read_bytes()[:-1])
    assert params_checkpoint.newest_good_step(folder) == 3


def test_types_are_those_of_the_checkpoint_and_shapes_must_fit(folder):
    wide = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), _params())
    assert {leaf.dtype for leaf in jax.tree.leaves(params_checkpoint.read_params(folder, 3, wide))} == {
        jnp.dtype(jnp.bfloat16)
    }
    with pytest.raises(ValueError, match=r"kernel.* is bfloat16\[3, 4\] on disk, bfloat16\[5, 4\] here"):
        params_checkpoint.read_params(folder, 3, jax.eval_shape(lambda: _params(width=5)))


def test_no_good_step_is_one_sentence(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ValueError, match=f"a checkpoint must hold a good step: {folder} holds none"):
            params_checkpoint.newest_good_step(folder)
