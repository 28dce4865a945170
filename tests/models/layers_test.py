"""Stacked and scanned layers equal a loop over layers; parameters carry their axes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from arft_jax.models.layers import Linear, RMSNorm, affine, scan_layers, stack_layers
from arft_jax.models.qwen2_5_vl.model import Qwen2_5_VL
from arft_jax.testing.tiny_model import tiny_config, tiny_model
from arft_jax.words import REMAT_POLICIES

WORDS = {
    "layers", "embed", "heads", "kv_heads", "head_dim", "mlp", "vocab",
    "vision_embed", "vision_heads", "vision_mlp", "patch_dim", None,
}  # fmt: skip


def _linear(rngs):
    return Linear((4,), (4,), ("embed", "mlp"), bias=True, rngs=rngs, dtype=jnp.float32, param_dtype=jnp.float32)


def test_scan_over_stacked_layers_equals_a_loop():
    layers = stack_layers(_linear, 3, nnx.Rngs(0))
    kernel = np.asarray(layers.kernel[...])
    assert kernel.shape == (3, 4, 4) and not np.allclose(kernel[0], kernel[1])  # each layer its own draw
    x = np.ones((2, 4), np.float32)
    want = x
    for layer in range(3):
        want = np.tanh(want @ kernel[layer])
    for remat in REMAT_POLICIES:
        got = scan_layers(lambda x, layer, _: jnp.tanh(layer(x)), layers, jnp.asarray(x), remat=remat)
        np.testing.assert_allclose(got, want, atol=1e-6)
    with pytest.raises(ValueError, match=r"one of none, dots, full: got True \(config.model.remat\)"):
        scan_layers(lambda x, layer, _: layer(x), layers, jnp.asarray(x), remat=True)


def test_every_parameter_has_one_axis_word_an_axis_and_layers_first_where_stacked():
    for tied in (True, False):
        for path, param in nnx.iter_graph(tiny_model(tiny_config(tied=tied))):
            if isinstance(param, nnx.Param):
                axes = param.get_metadata("axes")
                assert len(axes) == param[...].ndim and set(axes) <= WORDS, path
                assert ("layers" in axes) == ("layers" in path or "blocks" in path), path
                assert "layers" not in axes[1:], path


def test_axes_survive_a_split_and_a_merge():
    layers = stack_layers(_linear, 2, nnx.Rngs(0))
    merged = nnx.merge(*nnx.split(layers))
    assert merged.kernel.get_metadata("axes") == ("layers", "embed", "mlp")
    assert merged.bias.get_metadata("axes") == ("layers", "mlp")


def test_kernels_start_with_variance_one_over_fan_in():
    layer = Linear(
        (64, 4), (512,), ("heads", "head_dim", "embed"),
        bias=True, rngs=nnx.Rngs(0), dtype=jnp.float32, param_dtype=jnp.float32,
    )  # fmt: skip
    assert abs(float(layer.kernel[...].std()) - 1 / 16) < 1e-3  # fan in 64 * 4 = 256
    assert not np.any(layer.bias[...])


def test_tied_logits_start_at_unit_scale():
    model = Qwen2_5_VL(tiny_config(tied=True, vocab_size=512), rngs=nnx.Rngs(0))
    hidden = model.text.norm(jax.random.normal(jax.random.key(0), (64, 48)))
    assert 0.9 < float(model.logits(hidden).std()) < 1.1


def test_norm_is_computed_in_float32_and_returned_in_its_input_type():
    norm = RMSNorm(64, 1e-6, "embed", param_dtype=jnp.bfloat16)
    x = (jnp.arange(64) + 1000).astype(jnp.bfloat16)[None]
    want = np.asarray(x, np.float32) / np.sqrt(np.mean(np.asarray(x, np.float32) ** 2))
    got = norm(x)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(got, np.float32), want, rtol=2**-8)  # one rounding


def _affine_arguments(dtype):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in ((3, 2, 4), (2, 4, 5, 2), (5, 2))]


def test_a_bias_is_added_before_rounding_and_not_after():
    x, kernel, bias = _affine_arguments(jnp.bfloat16)
    exact = np.einsum("bij,ijkl->bkl", *(np.asarray(a, np.float32) for a in (x, kernel)), dtype=np.float32)
    exact += np.asarray(bias, np.float32)
    got = affine(x, kernel, bias, 2)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got, jnp.asarray(exact).astype(jnp.bfloat16))  # one rounding, of the exact sum


def test_the_gradient_with_a_bias_is_the_plain_one_with_products_in_the_compute_type():
    def loss(x, kernel, bias, f):
        return jnp.sum(f(x, kernel, bias).astype(jnp.float32) ** 2)

    def plain(x, kernel, bias):
        return jnp.einsum("bij,ijkl->bkl", x, kernel) + bias[None]

    grad = jax.grad(loss, (0, 1, 2))
    got = grad(*_affine_arguments(jnp.float32), lambda *a: affine(*a, 2))
    for one, want in zip(got, grad(*_affine_arguments(jnp.float32), plain), strict=True):
        np.testing.assert_allclose(one, want, atol=1e-5 * float(np.abs(want).max()))
    arguments = _affine_arguments(jnp.bfloat16)
    program = jax.jit(lambda *a: grad(*a, lambda *b: affine(*b, 2))).lower(*arguments).as_text()
    products = [line.split(":")[-1] for line in program.splitlines() if "dot_general" in line]
    assert len(products) == 3 and all("f32" not in line.split("->")[0].replace("bf16", "") for line in products)


def test_the_compiled_program_does_not_grow_with_depth():
    def n_lines(n_layers):
        model = tiny_model(tiny_config(n_layers=n_layers))
        args = jnp.zeros((1, 4, 48)), jnp.zeros((1, 3, 4), jnp.int32), jnp.zeros((1, 4), jnp.int32)
        return len(str(jax.make_jaxpr(model.hidden)(*args)).splitlines())

    assert n_lines(2) == n_lines(6)
