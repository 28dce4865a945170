"""A rollout and an update on eight virtual devices equal those on one."""

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

# float32 sums in another order; log-probs are of order 1 to 10, params of order 1.
TOLERANCE = 1e-4

SCRIPT = """
    import json, sys, types
    import jax, numpy as np
    from arft_jax import build, protocol, trainer
    from arft_jax.config import default_config
    from arft_jax.rollout import Request
    from arft_jax.testing.tiny_rollout import InstantTools, tiny_image, tiny_task
    from arft_jax.trajectory import Observation

    cache, out, mesh = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_compilation_cache_dir", cache)
    config = default_config()
    config.mesh.update(mesh)
    config.model.text_config.update(
        hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        mrope_section=(2, 3, 3))
    config.model.vision_config.update(hidden_size=32, intermediate_size=32, num_heads=4)
    config.rollout.update(
        group_size=4, n_slots=8, max_turn_tokens=6, max_tokens=400, extend_rows=8, decode_steps=4, n_features=128)
    config.train.update(prompts=2, rows_per_update=8, image_chunks=8)
    config.warm_start.rows = 8
    config.model.remat = True
    build.check(config)
    parts = build.build(config)
    params = parts.first_params()
    protocol.parse_turn = lambda text: protocol.Code("pass")  # the untrained policy calls a tool at every turn
    tools = InstantTools(lambda task, *_: Observation("seen", (tiny_image(int(task.id[1:]), 56, 28),)))
    requests = [Request(tiny_task(i, "coding", sizes=[(56, 84)]), i, 4) for i in range(2)]
    with jax.transfer_guard("disallow"):
        rng = parts.engine.put(np.array([1, 2], np.uint32))
        groups = parts.engine.run(params, requests, tools, rng=rng, temperature=1.0, max_turns=2)
        rows = [t for group in groups for t in group]
        optimizer = build.optimizer(config)
        state = trainer.learner.train_state(optimizer, params, False, parts.placement)
        run = types.SimpleNamespace(
            config=config, parts=parts, optimizer=optimizer, put=parts.engine.put,
            params=state["params"], opt_state=state["opt_state"])
        first = jax.tree.map(lambda leaf: leaf.sharding, (run.params, run.opt_state))
        update = trainer._make_update(run, build.objective(config, "policy"))
        stats = [
            trainer._apply(run, update, trainer._batch(run, rows, np.linspace(-1, 1, 8)), 1e-3, None, None)
            for _ in range(2)]
    assert first == jax.tree.map(lambda leaf: leaf.sharding, (run.params, run.opt_state))
    assert update._cache_size() == 1 and parts.engine.sampler.n_compiled() == 4
    share = run.params["text"]["layers"]["mlp"]["up"]["kernel"].get_value()
    np.savez(
        out, tokens=np.concatenate([t.tokens for t in rows]), logps=np.concatenate([t.sampler_logps for t in rows]),
        grad_norms=[s["grad_norm"] for s in stats], gap=stats[0]["gap_max"],
        share=share.addressable_shards[0].data.size / share.size,
        images=len({span.sha256 for t in rows for span in t.images}),
        **{f"p{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(run.params))})
"""


@pytest.fixture(scope="module")
def run_on(tmp_path_factory):
    """run_on(n_devices, mesh) -> what a process with so many virtual devices computed."""
    folder = tmp_path_factory.mktemp("meshes")

    def run(n_devices, **mesh):
        out = folder / f"{n_devices}-{'-'.join(f'{k}{v}' for k, v in mesh.items())}.npz"
        if not out.exists():
            flags = f"--xla_force_host_platform_device_count={n_devices}"
            env = dict(os.environ, XLA_FLAGS=flags, JAX_PLATFORMS="cpu", PYTHONPATH=os.pathsep.join(sys.path))
            cache = os.path.join(os.path.expanduser("~"), ".cache", "arft_jax", "tests")
            command = [sys.executable, "-c", textwrap.dedent(SCRIPT), cache, str(out), json.dumps(mesh)]
            done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
            assert done.returncode == 0, done.stderr[-4000:]
        return np.load(out)

    return run


LAYOUTS = [
    dict(data=2, fsdp=2, tensor=2),
    pytest.param(dict(data=2, fsdp=1, tensor=4), id="kv_heads_fewer_than_tensor"),
    pytest.param(dict(data=1, fsdp=8, tensor=1), marks=pytest.mark.slow),
    pytest.param(dict(data=8, fsdp=1, tensor=1), marks=pytest.mark.slow),
    pytest.param(dict(data=1, fsdp=4, tensor=2), marks=pytest.mark.slow),
]


@pytest.mark.parametrize("mesh", LAYOUTS, ids=str)
def test_a_rollout_and_two_updates_on_eight_devices_equal_those_on_one(run_on, mesh):
    want, got = run_on(1, data=1, fsdp=1, tensor=1), run_on(8, **mesh)
    assert int(want["images"]) == 4  # two given, two made: encode, extend, fork and decode all took part
    assert float(got["share"]) == 1 / (mesh["fsdp"] * mesh["tensor"]) and float(want["share"]) == 1
    np.testing.assert_array_equal(got["tokens"], want["tokens"])
    assert float(got["gap"]) < TOLERANCE and want["grad_norms"].min() > 0.1
    for name in want.files:
        if name not in ("share", "gap"):
            np.testing.assert_allclose(got[name], want[name], rtol=TOLERANCE, atol=TOLERANCE, err_msg=name)


KERNEL = """
    import json, sys
    import jax, jax.numpy as jnp, numpy as np
    from arft_jax import sharding
    from arft_jax.ops.attention import attend_causal

    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(4, 100, n, 16)), jnp.float32) for n in (4, 2, 2))
    ids = jnp.asarray(np.sort(rng.integers(-1, 2, (4, 100)), axis=1)[:, ::-1], jnp.int32)
    want = jax.grad(lambda *x: jnp.sin(attend_causal(*x, ids)).sum(), argnums=(0, 1, 2))(q, k, v)
    for shape in json.loads(sys.argv[1]):
        placement = sharding.Placement(sharding.make_mesh(shape))
        run = placement.attend_causal("splash")
        got = jax.jit(jax.grad(lambda *x: jnp.sin(run(*x, ids)).sum(), argnums=(0, 1, 2)))(q, k, v)
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, atol=2e-5)  # float32 sums of a hundred terms
    print("equal")
"""


def test_the_kernel_on_split_rows_and_heads_equals_the_plain_form():
    """On two heads a device, and on one with the key/value heads repeated."""
    env = dict(os.environ, XLA_FLAGS="--xla_force_host_platform_device_count=4", JAX_PLATFORMS="cpu")
    env["PYTHONPATH"] = os.pathsep.join(sys.path)
    meshes = json.dumps([dict(data=2, tensor=2), dict(tensor=4)])
    command = [sys.executable, "-c", textwrap.dedent(KERNEL), meshes]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.strip() == "equal"
