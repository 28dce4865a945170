"""Placement rules, meshes, and sharded == unsharded on 8 virtual devices."""

import json
import os
import re
import subprocess
import sys
import textwrap
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.extend.core import jaxprs_in_params
from jax.sharding import AbstractMesh, PartitionSpec

from arft_jax import sharding
from arft_jax.build import model as build
from arft_jax.config import default_config
from arft_jax.models.qwen2_5_vl.model import Qwen2_5_VL
from arft_jax.models.qwen2_5_vl.packing import VisionLayout, pack_layout
from arft_jax.steps.init import abstract_params
from arft_jax.testing.tiny_model import tiny_config, tiny_model

MESH = AbstractMesh((2, 2, 2), sharding.MESH_AXES)


class Mlp(nnx.Module):
    """Two parameters with named axes: enough of a model for placement."""

    def __init__(self, n_layers=3, d=8, f=12):
        self.up = nnx.Param(jnp.ones((n_layers, d, f)), axes=("layers", "embed", "mlp"))
        self.scale = nnx.Param(jnp.ones((n_layers, d)), axes=("layers", "embed"))


def test_each_logical_axis_goes_where_the_table_says():
    spec = sharding.partition_spec("w", ("layers", "embed", "mlp"), (3, 8, 12), MESH)
    assert spec == PartitionSpec(None, "fsdp", "tensor")
    assert sharding.partition_spec("b", ("layers", None), (3, 8), MESH) == PartitionSpec()


def test_shardings_have_the_structure_of_the_state_and_follow_its_axes():
    state = nnx.state(nnx.eval_shape(Mlp))
    mesh = sharding.make_mesh({}, jax.devices()[:1])
    shardings = sharding.param_shardings(state, mesh)
    assert jax.tree.structure(shardings) == jax.tree.structure(state)
    assert shardings["up"].get_value().spec == PartitionSpec(None, "fsdp", "tensor")
    assert shardings["scale"].get_value().spec == PartitionSpec(None, "fsdp")


def test_an_optimizer_state_is_split_like_its_parameters():
    state = nnx.state(Mlp())
    mesh = sharding.make_mesh({}, jax.devices()[:1])
    adam = sharding.param_shardings(optax.adam(1e-3).init(state), mesh)[0]
    assert adam.mu["up"].get_value().spec == PartitionSpec(None, "fsdp", "tensor")
    assert adam.count.spec == PartitionSpec()


def test_two_dimensions_on_one_mesh_axis_are_refused_with_both_named():
    both = "dimension 0 ('heads' -> 'tensor') and dimension 1 ('mlp' -> 'tensor')"
    with pytest.raises(ValueError, match=re.escape(both)):
        sharding.partition_spec("w", ("heads", "mlp"), (8, 8), MESH)


@pytest.mark.parametrize(
    ("axes", "shape", "message"),
    [
        (("mlp",), (9,), r"text\.w dimension 0 \('mlp'\) .*size 9, tensor=2 \(config\.mesh\.tensor\)"),
        (("embed",), (4, 4), r"text\.w must name every dimension"),
        (("wings",), (4,), r"text\.w has an axis without a rule: 'wings'"),
    ],
)
def test_a_parameter_that_cannot_be_placed_is_named(axes, shape, message):
    with pytest.raises(ValueError, match=message):
        sharding.partition_spec("text.w", axes, shape, MESH)


def test_an_array_without_axes_is_refused_and_a_scalar_is_replicated():
    mesh = sharding.make_mesh({}, jax.devices()[:1])
    assert sharding.param_shardings({"n": jnp.int32(0)}, mesh)["n"].spec == PartitionSpec()
    with pytest.raises(ValueError, match=r"a\.w must carry metadata 'axes'"):
        sharding.param_shardings({"a": {"w": jnp.ones(3)}}, mesh)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"model": 1}, "mesh axes must be among"),
        ({"data": 2}, "must multiply to the number of devices"),
        ({"data": -1, "fsdp": -1}, "at most one -1"),
        ({"tensor": 0}, "must be positive"),
    ],
)
def test_a_mesh_that_does_not_fit_the_devices_is_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        sharding.make_mesh(shape, jax.devices()[:1])


def test_rows_are_split_over_both_batch_axes():
    placement = sharding.Placement(sharding.make_mesh({}, jax.devices()[:1]))
    assert placement.split(0).spec == PartitionSpec(("data", "fsdp"))
    assert placement.split(1).spec == PartitionSpec(None, ("data", "fsdp")) and placement.whole.spec == PartitionSpec()
    assert sharding.Placement(MESH).n_lanes == 4


def test_kv_heads_fewer_than_the_tensor_axis_are_held_whole():
    spec = sharding.partition_spec("k", ("embed", "kv_heads", "head_dim"), (8, 3, 4), MESH)
    assert spec == PartitionSpec("fsdp")
    with pytest.raises(ValueError, match=r"\('heads'\) must be a multiple"):
        sharding.partition_spec("q", ("embed", "heads", "head_dim"), (8, 3, 4), MESH)


def test_a_sharded_update_equals_the_unsharded_one_on_eight_devices():
    script = """
        import jax, jax.numpy as jnp, numpy as np, optax
        from flax import nnx
        from arft_jax import sharding

        class Mlp(nnx.Module):
            def __init__(self, rngs):
                self.up = nnx.Param(nnx.initializers.normal()(rngs(), (8, 12)), axes=("embed", "mlp"))
                self.down = nnx.Param(nnx.initializers.normal()(rngs(), (12, 8)), axes=("mlp", "embed"))

        assert dict(sharding.make_mesh({"fsdp": 4, "data": -1}).shape) == {"data": 2, "fsdp": 4, "tensor": 1}
        mesh = sharding.make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
        graphdef, params = nnx.split(Mlp(nnx.Rngs(0)))
        x = jax.random.normal(jax.random.key(1), (16, 8))
        optimizer = optax.adam(1e-2)

        def step(params, opt, x):
            def loss(params):
                model = nnx.merge(graphdef, params)
                return jnp.mean((jnp.tanh(x @ model.up[...]) @ model.down[...] - x) ** 2)
            value, grads = jax.value_and_grad(loss)(params)
            updates, opt = optimizer.update(grads, opt)
            return optax.apply_updates(params, updates), opt, value

        want = jax.jit(step)(params, optimizer.init(params), x)
        opt = optimizer.init(params)
        places = sharding.param_shardings(params, mesh), sharding.param_shardings(opt, mesh)
        placement = sharding.Placement(mesh)
        rows = placement.split(0)
        got = jax.jit(step, in_shardings=(*places, rows), out_shardings=(*places, placement.whole))(
            jax.device_put(params, places[0]), jax.device_put(opt, places[1]), jax.device_put(x, rows))
        assert got[0]["up"].get_value().addressable_shards[0].data.shape == (4, 6)
        # float32 sums in another order
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
        print("equal")
    """
    # A process of its own: the number of virtual devices is fixed when JAX starts.
    env = dict(os.environ, XLA_FLAGS="--xla_force_host_platform_device_count=8", JAX_PLATFORMS="cpu")
    env["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "equal"


def test_every_parameter_of_the_model_has_a_place_on_a_mesh_split_both_ways():
    model = nnx.eval_shape(lambda: Qwen2_5_VL(tiny_config(tied=False), rngs=nnx.Rngs(0)))
    shardings = sharding.param_shardings(nnx.state(model, nnx.Param), AbstractMesh((1, 2, 2), sharding.MESH_AXES))
    layers = shardings["text"]["layers"]
    assert layers["q"]["kernel"].get_value().spec == PartitionSpec(None, "fsdp", "tensor")
    assert layers["mlp"]["down"]["kernel"].get_value().spec == PartitionSpec(None, "tensor", "fsdp")
    assert all(place.spec for place in jax.tree.leaves(shardings))  # none is left whole on every device


KERNELS = """
    import json, sys
    import jax, jax.numpy as jnp, numpy as np
    from arft_jax import sharding
    from arft_jax.ops import attention

    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_compilation_cache_dir", sys.argv[1])
    rng = np.random.default_rng(0)
    for kernel, name, shape, n_rows in json.loads(sys.argv[2]):
        q, k, v, g = (jnp.asarray(rng.normal(size=(n_rows, 40, n, 16)), jnp.float32) for n in (4, 2, 2, 4))
        ids = jnp.asarray(np.sort(rng.integers(-1, 3, (n_rows, 40)), axis=1)[:, ::-1], jnp.int32)

        def value_and_grads(run):
            def loss(*x):
                out = run(*x, ids)
                return (out * g).sum(), out

            (_, out), grads = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(q, k, v)
            return [out, *grads]

        run = getattr(sharding.Placement(sharding.make_mesh(shape)), name)(kernel)
        for got, want in zip(value_and_grads(run), value_and_grads(getattr(attention, name)), strict=True):
            np.testing.assert_allclose(got, want, atol=2e-5, err_msg=f"{kernel} {name}")  # sums of forty terms
    print("equal")
"""


def test_kernels_on_split_rows_and_heads_equal_the_plain_form():
    """Rows and heads split; key/value heads repeated; three rows, which two lanes do not divide."""
    cases = [
        ("splash", "attend_segments", dict(data=2, tensor=2), 2),
        ("cudnn", "attend_causal", dict(tensor=4), 2),
        ("cudnn", "attend_causal", dict(data=2, tensor=2), 2),
        ("cudnn", "attend_segments", dict(fsdp=2, tensor=2), 3),
    ]
    env = dict(os.environ, XLA_FLAGS="--xla_force_host_platform_device_count=4", JAX_PLATFORMS="cpu")
    env["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-c", textwrap.dedent(KERNELS), jax.config.jax_compilation_cache_dir, json.dumps(cases)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.strip() == "equal"


@pytest.mark.parametrize(("kernel", "platform"), [("splash", "gpu"), ("cudnn", "tpu")])
def test_a_kernel_on_other_hardware_is_refused(kernel, platform):
    mesh = types.SimpleNamespace(devices=np.array([types.SimpleNamespace(platform=platform)]), size=1)
    for name in ("attend_causal", "attend_segments"):
        with pytest.raises(ValueError, match=rf"must not be {kernel} on {platform}: .*\(config.model.attention\)"):
            getattr(sharding.Placement(mesh), name)(kernel)


@pytest.mark.parametrize("kernel", ["cudnn", pytest.param("splash", marks=pytest.mark.slow)])
def test_the_vision_tower_with_a_kernel_equals_the_plain_one_with_its_gradient(kernel):
    """Heads of 16 numbers, two images and padding in one chunk; full and windowed layers."""
    placement = sharding.Placement(sharding.make_mesh({}, jax.devices()[:1]))
    layout = pack_layout([(1, 6, 10), (1, 8, 4)], 100, 4, 112, 14, 2)
    layout = VisionLayout(*(jnp.asarray(x)[None] for x in layout))
    patches = jax.random.normal(jax.random.key(0), (1, 100, 1176))
    weights = jax.random.normal(jax.random.key(1), (1, 92 // 4, 48))

    def value_and_grad(**kwargs):
        model = tiny_model(**kwargs)
        loss = jax.value_and_grad(lambda x: jnp.sum(model.encode(x, layout)[:, : 92 // 4] * weights))
        return jax.jit(loss)(patches)

    run, asked = placement.attend_segments(kernel), []

    def attend(q, k, v, segment_ids):
        asked.append(q.shape)
        return run(q, k, v, segment_ids)

    got, want = value_and_grad(attend_segments=attend), value_and_grad()
    assert set(asked) == {(1, 100, 2, 16)}  # the full layers alone: windows have 64 patches each
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * float(np.abs(b).max()))  # four layers of float32 sums
    assert not jnp.any(got[1][:, 92:])


def test_the_kernel_that_the_config_names_reaches_both_towers():
    config = default_config()
    config.model.attention = "splash"
    config.model.text_config.update(num_hidden_layers=1)
    placement = sharding.Placement(sharding.make_mesh({}, jax.devices()[:1]))
    sizes = build.model_config(config, build.load_tokenizer(config))
    graphdef, params = abstract_params(build.model_maker(config, sizes, placement))
    layout = jax.tree.map(lambda x: x[None], pack_layout([(1, 8, 8)], 64, 1, 112, 14, 2))

    def encode(params, patches):
        return nnx.merge(graphdef, params).encode(patches, layout)

    def hidden(params, embeds, positions, ids):
        return nnx.merge(graphdef, params).hidden(embeds, positions, ids)

    ids = jax.ShapeDtypeStruct((1, 16), jnp.int32)
    embeds = jax.ShapeDtypeStruct((1, 16, sizes.text.dim), jnp.float32)
    positions = jax.ShapeDtypeStruct((1, 3, 16), jnp.int32)
    patches = jax.ShapeDtypeStruct((1, 64, sizes.vision.patch_dim), jnp.float32)
    for function, shapes in (encode, [patches]), (hidden, [embeds, positions, ids]):
        assert "pallas_call" in str(jax.make_jaxpr(function)(params, *shapes)), function


def _constraints(jaxpr):
    """Specs of every constraint on an activation, in the order of the program, a scanned layer's once."""
    found = []
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "sharding_constraint":
            found.append(tuple(eqn.params["sharding"].spec))
        for inner in jaxprs_in_params(eqn.params):
            found += _constraints(inner)
    return found


def test_both_towers_say_where_their_activations_lie():
    """On data=2, fsdp=2, tensor=2: rows over the lanes, heads, MLP and vocabulary over tensor."""
    config = default_config()
    sizes = build.model_config(config, build.load_tokenizer(config))
    graphdef, params = abstract_params(build.model_maker(config, sizes, sharding.Placement(MESH)))
    layout = jax.tree.map(lambda x: jnp.stack([x] * 4), pack_layout([(1, 8, 8)], 64, 1, 112, 14, 2))

    def encode(model, patches):
        return model.encode(patches, layout)

    def read(model, tokens, features, index, positions):
        return model.logits(model.hidden(model.embed(tokens, features, index), positions, tokens))

    def specs(function, *shapes):
        shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes]
        run = jax.make_jaxpr(lambda p, *x: function(nnx.merge(graphdef, p), *x))
        return _constraints(run(params, *shapes).jaxpr)

    rows, ids = ("data", "fsdp"), ((4, 16), jnp.int32)
    heads, mlp, stream = (rows, None, "tensor", None), (rows, None, "tensor"), (rows, None, None)
    layer = [heads, heads, heads, heads, mlp, stream]  # q, k, v, what was attended, the MLP within, the sum
    features, positions = ((8, sizes.text.dim), jnp.float32), ((4, 3, 16), jnp.int32)
    got = specs(read, ids, features, ids, positions)
    assert got == [stream, stream, *layer, mlp]  # tokens, features put in place, one layer for all, logits
    patches = ((4, 64, sizes.vision.patch_dim), jnp.float32)
    assert specs(encode, patches) == [(rows, None, None, "tensor", None), mlp, stream]
