"""A rollout and an update on eight virtual devices, or by several processes, equal those of one on one device."""

import json
import os
import socket
import subprocess
import sys
import textwrap

import numpy as np
import pytest

# float32 sums in another order; log-probs are of order 1 to 10, params of order 1.
TOLERANCE = 1e-4
GRADIENT_BOUND = 5e-5  # largest difference of a parameter's gradient, as a share of its largest number

SCRIPT = """
    import dataclasses, json, sys
    import jax, numpy as np
    from arft_jax.build.parts import make
    from arft_jax.build.plan import plan
    from arft_jax.train.batches import share
    from arft_jax.train.learning import Learning
    from arft_jax.train.state import TrainState
    from arft_jax.steps import learner
    from arft_jax.config import default_config
    from arft_jax.io import hosts
    from arft_jax.rollout.request import Request
    from arft_jax.syntax.tags import TagSyntax
    from arft_jax.testing.tiny_rollout import InstantTools, tiny_image, tiny_task
    from arft_jax.testing.toolboxes import code_call
    from arft_jax.trajectory import Observation, Status

    cache, out, mesh, process, n_processes, port = sys.argv[1:]
    mesh, process, n_processes = json.loads(mesh), int(process), int(n_processes)
    n_prompts = mesh.pop("prompts", 8)  # two rows each, and four updates of a quarter of the rows
    if n_processes > 1:
        hosts.start(f"localhost:{port}", n_processes, process)
    if n_processes == 1:  # of several only the first fills the cache: it would wait for the others until Gloo gives up
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
        jax.config.update("jax_compilation_cache_dir", cache)
    config = default_config()
    config.rollout.tensor, config.rollout.cache_dtype = mesh.pop("rollout", 0), mesh.pop("cache", "")
    config.model.lora.update(rank=mesh.pop("lora", 0), vision=True)
    infra = mesh.pop("infra", None)  # rows that fail, and whether they hold other tokens than they did
    config.train.update(micro_tokens=mesh.pop("micro", 3200), row_widths=(mesh.pop("width", 400),))
    config.train.share_prompts = mesh.pop("shared", False)
    config.mesh.update(mesh)
    config.model.text_config.update(
        hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        mrope_section=(2, 3, 3))
    config.model.vision_config.update(hidden_size=32, intermediate_size=32, num_heads=4)
    config.rollout.update(
        group_size=2, n_slots=8, max_turn_tokens=6, max_tokens=400, extend_rows=8, decode_steps=4, n_features=128)
    config.train.update(prompts=n_prompts, rows_per_update=n_prompts // 2, image_chunks=8)
    config.train.update(beta=0.1, importance="sequence")
    config.model.remat = "full"
    planned = plan(config)
    parts = make(planned)
    params = parts.first_params()
    TagSyntax.parse = lambda self, text: code_call("pass")  # the untrained policy calls a tool at every turn
    tools = InstantTools(lambda task, *_: Observation("seen", (tiny_image(int(task.id[1:]), 56, 28),)))
    requests = [Request(tiny_task(i, "coding", sizes=[(56, 84)]), i, 2) for i in range(n_prompts)][share(n_prompts)]
    with jax.transfer_guard("disallow"):
        rng = parts.engine.put(np.array([1, 2], np.uint32))
        rolls_out = parts.for_rollout(params)
        for leaf in jax.tree.leaves((parts.engine.slots.state, parts.engine.slots.rules, rolls_out)):
            # all that a rollout's programs read: no collective of theirs can leave the process
            assert leaf.sharding.device_set <= set(jax.local_devices()), leaf.sharding
            assert len(leaf.addressable_shards) == len(leaf.sharding.device_set) == jax.local_device_count()
        groups = parts.engine.run(rolls_out, requests, tools, rng=rng, temperature=1.0, max_turns=2)
        rows = [t for group in groups for t in group]
        rewards = np.random.default_rng(0).normal(size=2 * n_prompts)[share(2 * n_prompts)].tolist()
        rows = [dataclasses.replace(t, rewards={"total": reward}) for t, reward in zip(rows, rewards)]
        if infra is not None:
            for i in (1, 4, 11):
                tokens = (rows[i].tokens + 1) % 900 if infra else rows[i].tokens
                rows[i] = dataclasses.replace(rows[i], status=Status.INFRA, rewards={}, tokens=tokens)
        state = TrainState(**learner.train_state(planned.optimizer, params, planned.keeps_reference, planned.placement))
        first = jax.tree.map(lambda leaf: leaf.sharding, (state.params, state.opt_state))
        learning = Learning(planned, parts, state)
        together = jax.jit(lambda tree: tree, out_shardings=planned.placement.whole)
        apply, gradients = learning.updater.apply_gradients, []

        def recorded(params, opt_state, gradient, *rest):
            gradients.append([np.asarray(leaf) for leaf in jax.device_get(jax.tree.leaves(together(gradient)))])
            return apply(params, opt_state, gradient, *rest)

        learning.updater.apply_gradients = recorded
        stats = [learning.step(state, rows, 1, rate)[0] for rate in (0.0, 1e-3)]  # four updates each
    assert first == jax.tree.map(lambda leaf: leaf.sharding, (state.params, state.opt_state))
    assert parts.engine.slots.sampler.n_compiled() == 4 and len(gradients) == 8
    kernel = state.params["text"]["layers"]["mlp"]["up"]["kernel"].get_value()
    everywhere, moments = together(state.params), together(state.opt_state)
    np.savez(
        out, tokens=np.concatenate([t.tokens for t in rows]), logps=np.concatenate([t.sampler_logps for t in rows]),
        grad_norms=[s["grad_norm"] for s in stats], gap=stats[0]["gap_max"], packing=stats[0]["packing_frac"],
        micro_batches=stats[0]["n_micro_batches"], saved=stats[0]["shared_frac"],
        lengths=[len(t.tokens) for t in rows],
        **{f"g{k}_{i}": leaf for k, update in enumerate(gradients[:4]) for i, leaf in enumerate(update)},
        share=kernel.addressable_shards[0].data.size / kernel.size,
        images=len({span.sha256 for t in rows for span in t.images}),
        **{f"p{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(everywhere))},
        **{f"m{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(moments))})
"""


def assert_updated_alike(got, want):
    assert worst_difference(got, want) < GRADIENT_BOUND
    _assert_moments_alike(got, want)


def _assert_moments_alike(got, want):
    """Moments are sums of gradients: equal one by one. A parameter's step is a quotient of them that magnifies rounding
    where a gradient is nearly 0: equal on average, and no further apart than the two steps of 1e-3 are long."""
    names = [name for name in want.files if name[0] in "mp" and name[1:].isdigit()]
    assert len(names) > 20
    np.testing.assert_allclose(got["grad_norms"], want["grad_norms"], rtol=TOLERANCE)
    for name in names:
        if name.startswith("m"):
            np.testing.assert_allclose(got[name], want[name], rtol=TOLERANCE, atol=TOLERANCE, err_msg=name)
        else:
            apart = np.abs(got[name] - want[name])
            assert apart.mean() < 1e-6 and apart.max() < 1e-3, (name, apart.mean(), apart.max())


def worst_difference(got, want):
    """The largest difference of four updates' gradients, as a share of the largest number of each parameter's."""
    names = [name for name in want.files if name[0] == "g" and name[1].isdigit()]
    assert len(names) > 80 and {name[1] for name in names} == set("0123")
    assert min(np.abs(want[name]).max() for name in names if name.endswith("_0")) > 1e-3
    return max(np.abs(got[name] - want[name]).max() / max(np.abs(want[name]).max(), 1e-3) for name in names)


@pytest.fixture(scope="module")
def run_on(tmp_path_factory):
    """run_on(n_devices, n_processes, mesh) -> what processes with so many virtual devices each computed, one by one."""
    folder = tmp_path_factory.mktemp("meshes")

    def run(n_devices, n_processes=1, **mesh):
        name = f"{n_devices}-{n_processes}-{'-'.join(f'{k}{v}' for k, v in mesh.items())}"
        outs = [folder / f"{name}.{process}.npz" for process in range(n_processes)]
        if not outs[0].exists():
            flags = f"--xla_force_host_platform_device_count={n_devices}"
            env = dict(os.environ, XLA_FLAGS=flags, JAX_PLATFORMS="cpu", PYTHONPATH=os.pathsep.join(sys.path))
            cache = os.path.join(os.path.expanduser("~"), ".cache", "arft_jax", "tests")
            with socket.socket() as found:
                found.bind(("localhost", 0))
                port = str(found.getsockname()[1])
            command = [sys.executable, "-c", textwrap.dedent(SCRIPT), cache]
            started = [
                subprocess.Popen(
                    [*command, str(out), json.dumps(mesh), str(process), str(n_processes), port],
                    env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                )
                for process, out in enumerate(outs)
            ]  # fmt: skip
            for process in started:
                errors = process.communicate(timeout=600)[1]
                assert process.returncode == 0, errors[-4000:]
        return [np.load(out) for out in outs]

    return run


LAYOUTS = [
    dict(data=2, fsdp=2, tensor=2, rollout=2),
    pytest.param(dict(data=2, fsdp=1, tensor=4), id="kv_heads_fewer_than_tensor", marks=pytest.mark.slow),
    pytest.param(dict(data=1, fsdp=8, tensor=1), marks=pytest.mark.slow),
    pytest.param(dict(data=8, fsdp=1, tensor=1), marks=pytest.mark.slow),
    pytest.param(dict(data=1, fsdp=4, tensor=2, rollout=4), marks=pytest.mark.slow),
    pytest.param(dict(data=2, fsdp=4, tensor=1), marks=pytest.mark.slow),
    pytest.param(dict(data=1, fsdp=2, tensor=4), marks=pytest.mark.slow),
    pytest.param(dict(data=2, fsdp=2, tensor=2, lora=4), marks=pytest.mark.slow),
]


ONE = dict(data=1, fsdp=1, tensor=1)
# What does not change the gradient of an update: (devices, processes, mesh and settings).
SAME_GRADIENT = {
    "micro-batches of 1 row": (1, 1, dict(ONE, micro=400)),
    "micro-batches of 2 rows": (1, 1, dict(ONE, micro=800)),
    "two samples a row": (1, 1, dict(ONE, width=800)),
    "a prompt once for its group": (1, 1, dict(ONE, width=800, shared=True)),
    "data=8": (8, 1, dict(data=8, fsdp=1, tensor=1)),
    "fsdp=8": (8, 1, dict(data=1, fsdp=8, tensor=1)),
    "data=2, fsdp=2, tensor=2": (8, 1, dict(data=2, fsdp=2, tensor=2, rollout=2)),
    "fsdp=4, tensor=2, packed, shared": (8, 1, dict(data=1, fsdp=4, tensor=2, width=800, shared=True)),
    "2 processes": (2, 2, dict(data=1, fsdp=4, tensor=1, rollout=2)),
    "4 processes": (1, 4, dict(data=2, fsdp=2, tensor=1)),
    "4 processes, packed, shared": (1, 4, dict(data=1, fsdp=4, tensor=1, width=800, micro=800, shared=True)),
}
ONE_BY_ONE = [pytest.param("micro-batches of 1 row", marks=pytest.mark.slow), "a prompt once for its group"]


@pytest.mark.parametrize("name", ONE_BY_ONE)
def test_micro_batches_and_shared_prompts_give_the_gradient_of_whole_rows(run_on, name):
    [want], every = run_on(1, **ONE), run_on(SAME_GRADIENT[name][0], SAME_GRADIENT[name][1], **SAME_GRADIENT[name][2])
    assert worst_difference(every[0], want) < GRADIENT_BOUND
    saved = 0.4 if "once" in name else 0
    assert every[0]["saved"] >= saved and (float(every[0]["micro_batches"]) == 1) == bool(saved)


@pytest.mark.slow  # tests/steps/learner_test.py has it for one update
def test_rows_of_our_own_failures_change_no_gradient_whatever_they_hold(run_on):
    """Three rows fail: other tokens in them change nothing, and without their failure the gradient is another."""
    [want], [got], [whole] = run_on(1, infra=0, **ONE), run_on(1, infra=1, **ONE), run_on(1, **ONE)
    # two runs of one program differ by as little: threads add up in another order
    assert worst_difference(got, want) < GRADIENT_BOUND and worst_difference(whole, want) > 0.01


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_gradient_is_one_on_any_layout_printed_as_a_table(run_on, capsys):
    """A line as each layout ends: a layout takes half a minute to minutes."""
    found = {}
    with capsys.disabled():
        print(f"\nlargest difference of four updates' gradients to those of one device, bound {GRADIENT_BOUND:.0e}")
        [want] = run_on(1, prompts=16, **ONE)
        for name, (n_devices, n_processes, mesh) in SAME_GRADIENT.items():
            every = run_on(n_devices, n_processes, prompts=16, **mesh)
            found[name] = max(worst_difference(got, want) for got in every)
            print(f"{name:34s} {found[name]:.1e}", flush=True)
    assert max(found.values()) < GRADIENT_BOUND


@pytest.mark.parametrize("mesh", LAYOUTS, ids=str)
def test_a_rollout_and_two_updates_on_eight_devices_equal_those_on_one(run_on, mesh):
    same = {key: value for key, value in mesh.items() if key == "lora"}
    [want], [got] = run_on(1, data=1, fsdp=1, tensor=1, **same), run_on(8, **mesh)
    assert int(want["images"]) == 16  # half given, half made: encode, extend, fork and decode all took part
    assert float(got["share"]) == 1 / (mesh["fsdp"] * mesh["tensor"]) and float(want["share"]) == 1
    np.testing.assert_array_equal(got["tokens"], want["tokens"])
    assert float(got["gap"]) < TOLERANCE and want["grad_norms"].min() > 0.1
    np.testing.assert_allclose(got["logps"], want["logps"], rtol=TOLERANCE, atol=TOLERANCE)
    assert int(got["images"]) == int(want["images"])
    assert_updated_alike(got, want)


# Where sums in another order round a number to the next step of its type a log-prob moves by as much: 1e-3 was seen.
# What the type itself costs is ten times that.
@pytest.mark.slow
@pytest.mark.parametrize("cache", ["int8", "float8_e4m3fn"])
def test_a_smaller_cache_on_eight_devices_equals_that_on_one(run_on, cache):
    mesh = dict(data=2, fsdp=2, tensor=2, rollout=2, cache=cache)
    [want], [got] = run_on(1, data=1, fsdp=1, tensor=1, cache=cache), run_on(8, **mesh)
    np.testing.assert_array_equal(got["tokens"], want["tokens"])
    np.testing.assert_allclose(got["logps"], want["logps"], rtol=0, atol=3e-3)
    assert want["gap"] > 0.01 and got["gap"] > 0.01  # the type was used


@pytest.mark.parametrize(
    ("n_processes", "n_devices", "mesh"),
    [
        pytest.param(2, 2, dict(data=1, fsdp=4, tensor=1, rollout=2), id="2"),
        pytest.param(4, 1, dict(data=2, fsdp=2, tensor=1), id="4", marks=pytest.mark.slow),
        pytest.param(2, 4, dict(data=2, fsdp=2, tensor=2), id="2_of_4_devices", marks=pytest.mark.slow),
    ],
)
def test_several_processes_give_the_trajectories_and_the_update_of_one(run_on, n_processes, n_devices, mesh):
    """Each rolls out its own share on its own devices; the update is one program over all of them."""
    [want], every = run_on(1, data=1, fsdp=1, tensor=1), run_on(n_devices, n_processes, **mesh)
    np.testing.assert_array_equal(np.concatenate([got["tokens"] for got in every]), want["tokens"])
    logps = np.concatenate([got["logps"] for got in every])
    np.testing.assert_allclose(logps, want["logps"], rtol=TOLERANCE, atol=TOLERANCE)
    assert sum(int(got["images"]) for got in every) == int(want["images"])
    for got in every:
        assert float(got["gap"]) < TOLERANCE
        assert_updated_alike(got, want)


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
