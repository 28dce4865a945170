"""Eight devices give the log-probs and gradients of one, and send no more bytes for more chunks."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

TOLERANCE = 2e-6  # float32 sums of some tens of numbers near 1, in another order

SCRIPT = """
    import functools, json, sys
    import jax, jax.numpy as jnp, numpy as np
    from jax.sharding import NamedSharding, PartitionSpec as P
    from arft_jax.compile_check import hlo_costs
    from arft_jax.ops.linear import product
    from arft_jax.sampling import pick
    from arft_jax.sharding import Placement, make_mesh

    B, T, D, F, V = 8, 16, 16, 32, 40
    rng = np.random.default_rng(0)
    params = {
        "up": rng.normal(size=(D, F)) / 4, "down": rng.normal(size=(F, D)) / 6, "head": rng.normal(size=(D, V)) / 4}
    params = {name: x.astype(np.float32) for name, x in params.items()}
    axes = {"up": P("fsdp", "tensor"), "down": P("tensor", "fsdp"), "head": P("fsdp", "tensor")}
    x = rng.normal(size=(B, T, D)).astype(np.float32)
    tokens, allowed = rng.integers(0, V - 3, (B, T)).astype(np.int32), np.arange(V) < V - 3
    # rows of any number of scored tokens, one of none; sources that several tokens share
    mask = rng.random((B, T)) < np.linspace(0, 1, B)[:, None]
    source = np.maximum(np.arange(T) - rng.integers(1, 4, (B, T)), -1).astype(np.int32)
    weights = rng.normal(size=(2, B, T)).astype(np.float32)

    def scores(logits, allowed):
        return pick.scores(logits, allowed, temperature=0.8, top_k=20)

    def unembed(hidden, kernel):
        return product(hidden, kernel, 1, jnp.float32)

    def programs(mesh, chunk, compact=True):
        placement = Placement(make_mesh(mesh, jax.devices()[: 8 if mesh else 1]))
        put = lambda tree, spec: jax.device_put(tree, NamedSharding(placement.mesh, spec))
        own = {name: put(kernel, axes[name]) for name, kernel in params.items()}
        rows = put((x, tokens, mask, source, weights[0], weights[1]), P(("data", "fsdp")))

        def logps(params, x, tokens, mask, source):
            up, down = (
                functools.partial(placement.constrain.weight_gradient, axes=names)
                for names in (("embed", "mlp"), ("mlp", "embed")))
            inner = product(x, params["up"], 1, None, up)
            hidden = x + product(jax.nn.silu(inner), params["down"], 1, None, down)
            return placement.token_logps(
                hidden, params["head"], tokens, put(allowed, P()), unembed=unembed, scores=scores, chunk=chunk,
                source=source if compact else None, mask=mask if compact else None)

        def loss(params, x, tokens, mask, source, a, b):
            got = logps(params, x, tokens, mask, source)
            return jnp.sum(a * got[0]) + jnp.sum(b * got[1]), got

        places = {name: leaf.sharding for name, leaf in own.items()}
        update = jax.jit(jax.grad(loss, has_aux=True), out_shardings=(places, None)).lower(own, *rows).compile()
        score = jax.jit(logps).lower(own, *rows[:4]).compile()
        bytes_of = [hlo_costs.count(program.as_text()) for program in (score, update)]
        return update(own, *rows), bytes_of

    def worst(got, want):
        gaps = jax.tree.map(lambda a, b: float(np.abs(np.asarray(a) - np.asarray(b)).max()), got, want)
        return max(jax.tree.leaves(gaps))

    want, _ = programs({}, 16)
    report = {}
    for mesh in json.loads(sys.argv[1]):
        (got, few), (again, many) = (programs(mesh, chunk) for chunk in (8, 2))
        report[json.dumps(mesh)] = {
            "gap": max(worst(got, want), worst(again, want)),
            "size": worst(want[0], jax.tree.map(np.zeros_like, want[0])),
            "few": [one.sent_bytes for one in few], "many": [one.sent_bytes for one in many]}
    print(json.dumps(report))
"""

MESHES = [{"data": 8}, {"fsdp": 8}, {"data": 2, "fsdp": 2, "tensor": 2}]


@pytest.fixture(scope="module")
def report():
    env = dict(os.environ, XLA_FLAGS="--xla_force_host_platform_device_count=8", JAX_PLATFORMS="cpu")
    env["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), json.dumps(MESHES)], capture_output=True, text=True, env=env
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_a_mesh_gives_the_values_and_gradients_of_one_device(report, mesh):
    found = report[json.dumps(mesh)]
    assert found["gap"] < TOLERANCE * max(1.0, found["size"]) and found["size"] > 1


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_the_bytes_sent_do_not_depend_on_the_number_of_chunks(report, mesh):
    """Two and eight chunks; one more gather of the unembedding alone would be 2 kB and more."""
    found = report[json.dumps(mesh)]
    for few, many in zip(found["few"], found["many"], strict=True):
        assert few and few == pytest.approx(many, abs=64)


def test_kernels_are_gathered_as_often_as_they_must_and_every_gradient_is_scattered(report):
    """fsdp=8: kernels [16, 32] and [32, 16] forward and again backward at most, the unembedding [16, 40] once."""
    score, update = report[json.dumps(MESHES[1])]["many"]
    layer, head = 2 * 16 * 32 * 4, 16 * 40 * 4
    assert score == pytest.approx({"all-gather": (layer + head) * 7 / 8}, abs=64)
    assert update.pop("all-gather") <= (2 * layer + head) * 7 / 8 + 64
    assert update.pop("reduce-scatter") == pytest.approx((layer + head) * 7 / 8, abs=64)
    assert sum(update.values()) < 64
