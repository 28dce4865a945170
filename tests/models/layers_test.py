"""Stacked and scanned layers equal a loop over layers; parameters carry their axes."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from arft_jax.models.layers import Linear, RMSNorm, scan_layers, stack_layers
from arft_jax.models.qwen2_5_vl.model import Qwen2_5_VL
from arft_jax.testing.tiny_model import tiny_config, tiny_model

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
    for remat in (False, True):
        got = scan_layers(lambda x, layer, _: jnp.tanh(layer(x)), layers, jnp.asarray(x), remat=remat)
        np.testing.assert_allclose(got, want, atol=1e-6)


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


def test_the_compiled_program_does_not_grow_with_depth():
    def n_lines(n_layers):
        model = tiny_model(tiny_config(n_layers=n_layers))
        args = jnp.zeros((1, 4, 48)), jnp.zeros((1, 3, 4), jnp.int32), jnp.zeros((1, 4), jnp.int32)
        return len(str(jax.make_jaxpr(model.hidden)(*args)).splitlines())

    assert n_lines(2) == n_lines(6)
