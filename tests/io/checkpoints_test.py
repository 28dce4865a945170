"""A checkpoint comes back bit for bit, or is not used."""

import json
import os
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from arft_jax.io import checkpoints


def make_state(seed=0):
    model = nnx.Linear(3, 4, rngs=nnx.Rngs(seed))
    params = nnx.state(model)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    return {
        "params": params,
        "opt": optimizer.init(params),
        "rng": jax.random.key(seed),
        "keys": jax.random.split(jax.random.key(seed), 2),
        "half": jnp.full((2, 2), seed, jnp.bfloat16),
        "host_array": np.arange(5, dtype=np.int64) + seed,
        "empty": (),
    }


def raw(leaf):
    return np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(raw(x), raw(y))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


def save_steps(folder, steps, keep=5):
    with checkpoints.Checkpoints(folder, keep) as store:
        for step in steps:
            store.save(step, make_state(step), {"step": step})


def newest(folder):
    with checkpoints.Checkpoints(folder, 5) as store:
        return store.restore_latest(make_state(99))


def victim(folder, step):
    """The largest file of a step: array data."""
    return max((p for p in (folder / "steps" / str(step)).rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def test_state_optimizer_keys_and_host_part_come_back_as_they_were(folder):
    state = make_state(7)
    with checkpoints.Checkpoints(folder, 2) as store:
        assert store.restore_latest(state) is None
        store.save(3, state, {"epoch": 1, "order": [3, 1, 2], "note": "ü"})
    with checkpoints.Checkpoints(folder, 2) as store:
        abstract = jax.eval_shape(lambda: {k: v for k, v in make_state(0).items() if k != "host_array"})
        step, got, host = store.restore_latest(abstract | {"host_array": np.zeros(5, np.int64)})
    assert (step, host) == (3, {"epoch": 1, "order": [3, 1, 2], "note": "ü"})
    assert_same(got, state)
    assert isinstance(got["host_array"], np.ndarray) and isinstance(got["half"], jax.Array)
    # The key is a key again: it draws what the saved one draws.
    assert jax.random.uniform(got["rng"]) == jax.random.uniform(state["rng"])


@pytest.mark.parametrize("harm", ["truncate", "flip", "remove", "no manifest", "broken manifest"])
def test_a_harmed_step_is_set_aside_and_the_one_before_it_is_used(folder, harm, caplog):
    save_steps(folder, [1, 2])
    file = victim(folder, 2)
    data = file.read_bytes()
    manifest = folder / "steps" / "2" / checkpoints.MANIFEST
    if harm == "truncate":
        file.write_bytes(data[: len(data) // 2])
    elif harm == "flip":
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif harm == "remove":
        file.unlink()
    elif harm == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text('{"files": ')
    with caplog.at_level("WARNING"):
        step, state, host = newest(folder)
    assert (step, host) == (1, {"step": 1})
    assert_same(state, make_state(1))
    assert "checkpoint of step 2 is not used" in caplog.text
    assert [p.name for p in (folder / "quarantine").iterdir()] == ["2.0"]
    save_steps(folder, [2])  # its number is free again
    assert newest(folder)[0] == 2


def test_a_step_copied_over_another_is_not_taken_for_it(folder, caplog):
    save_steps(folder, [4, 6])
    shutil.rmtree(folder / "steps" / "6")
    shutil.copytree(folder / "steps" / "4", folder / "steps" / "6")
    with caplog.at_level("WARNING"):
        assert newest(folder)[0] == 4
    assert "checkpoint of step 6 is not used: its manifest is that of step 4" in caplog.text


def drop_numbers(folder):
    """Makes the manifests those of an earlier version."""
    for path in (folder / "steps").glob("*/" + checkpoints.MANIFEST):
        manifest = json.loads(path.read_text())
        del manifest["step"]
        path.write_text(json.dumps(manifest))


def test_steps_of_an_earlier_version_stop_the_run_until_their_number_is_written_in(folder):
    save_steps(folder, [4, 6])
    drop_numbers(folder)
    with pytest.raises(ValueError, match=r'must name its step: .*steps/6/manifest.json names none.* add "step": 6 to'):
        newest(folder)
    assert not (folder / "quarantine").exists()
    path = folder / "steps" / "6" / checkpoints.MANIFEST
    path.write_text(json.dumps({"step": 6} | json.loads(path.read_text())))
    assert newest(folder)[0] == 6


def test_a_nameless_step_above_a_named_one_is_set_aside(folder):
    save_steps(folder, [6])
    drop_numbers(folder)
    shutil.move(folder / "steps" / "6", folder / "6")
    save_steps(folder, [4])
    shutil.move(folder / "6", folder / "steps" / "6")
    assert newest(folder)[0] == 4


def test_no_good_step_is_none(folder):
    save_steps(folder, [1])
    victim(folder, 1).unlink()
    assert newest(folder) is None


def test_only_the_newest_are_kept(folder):
    save_steps(folder, [1, 2, 3, 4], keep=2)
    assert sorted(p.name for p in (folder / "steps").iterdir()) == ["3", "4"]


def test_a_seal_that_fails_leaves_the_step_before_it_and_nothing_stands_for_a_good_step(folder, monkeypatch):
    for keep in (1, 2):
        save_steps(folder, [1], keep)
        with checkpoints.Checkpoints(folder, keep) as store:
            with monkeypatch.context() as patch:
                patch.setattr(checkpoints, "seal", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
                store.save(2, make_state(2), {})
                with pytest.raises(OSError, match="disk full"):
                    store.wait()
            assert (folder / "steps" / "1").is_dir()
            if keep == 2:  # the unsealed step does not count as one of those that are kept
                store.save(3, make_state(3), {})
                store.wait()
                assert (folder / "steps" / "1" / checkpoints.MANIFEST).is_file()
                continue
        assert newest(folder)[0] == 1
        shutil.rmtree(folder)


KILLED = """
import os, signal, sys
import jax.numpy as jnp
from arft_jax.io import checkpoints
folder, keep = sys.argv[1], int(sys.argv[2])
with checkpoints.Checkpoints(folder, keep) as store:
    store.save(1, {"x": jnp.full(4, 1.0)}, {})
    store.wait()
    checkpoints.seal = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    store.save(2, {"x": jnp.full(4, 2.0)}, {})
    store.wait()
"""


def test_a_process_killed_between_commit_and_seal_leaves_the_step_before_it(tmp_path):
    env = dict(os.environ, JAX_PLATFORMS="cpu", PYTHONPATH=os.pathsep.join(sys.path))
    killed = [
        subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / str(keep)), str(keep)], env=env)
        for keep in (1, 2)
    ]
    assert [process.wait() for process in killed] == [-signal.SIGKILL] * 2
    for keep in (1, 2):
        steps = tmp_path / str(keep) / "steps"
        assert (steps / "2").is_dir() and not (steps / "2" / checkpoints.MANIFEST).exists()  # committed, not sealed
        with checkpoints.Checkpoints(tmp_path / str(keep), keep) as store:
            step, state, _ = store.restore_latest({"x": jax.ShapeDtypeStruct((4,), jnp.float32)})
        assert step == 1 and state["x"].tolist() == [1.0] * 4


def test_what_an_interrupted_save_left_is_removed_at_start(folder):
    save_steps(folder, [1])
    left = folder / "steps" / "2.orbax-checkpoint-tmp"
    (left / "state").mkdir(parents=True)
    with checkpoints.Checkpoints(folder, 2) as store:
        assert not left.exists()
        assert store.latest_step() == 1


def test_an_error_of_the_last_save_is_raised_at_the_next_call(folder, monkeypatch):
    def full(*args):
        raise OSError("no space left on device")

    with checkpoints.Checkpoints(folder, 2) as store:
        monkeypatch.setattr(checkpoints, "seal", full)
        store.save(1, make_state(), {})
        with pytest.raises(OSError, match="no space left"):
            store.wait()
        store.wait()  # told once


def test_a_checkpoint_of_another_config_is_named_and_stays(folder):
    save_steps(folder, [1])
    other = make_state() | {"half": jnp.zeros((2, 3), jnp.bfloat16), "new": jnp.zeros(1)}
    del other["rng"]
    with checkpoints.Checkpoints(folder, 2) as store:
        with pytest.raises(ValueError, match=r"must fit the state of this config") as error:
            store.restore_latest(other)
        assert store.latest_step() == 1
    message = str(error.value)
    assert "['new'] is not in the checkpoint" in message
    assert "['rng'] is only in the checkpoint" in message
    assert "['half'] is bfloat16[2, 2] on disk, bfloat16[2, 3] here" in message


def test_bad_arguments_are_refused(folder):
    with pytest.raises(ValueError, match="keep must be at least 1"):
        checkpoints.Checkpoints(folder, 0)
    with checkpoints.Checkpoints(folder, 2) as store:
        store.save(5, make_state(), {})
        with pytest.raises(ValueError, match="must be new: got 5, newest is 5"):
            store.save(5, make_state(), {})
        with pytest.raises(ValueError, match="must be JSON"):
            store.save(6, make_state(), {"x": object()})
        with pytest.raises(ValueError, match="must be arrays: got int"):
            store.save(6, {"x": 3}, {})
