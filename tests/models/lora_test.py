"""Adapters: peft's arithmetic, by hand and against it; fresh ones change nothing, merged ones compute the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from arft_jax.models.layers import Linear
from arft_jax.models.lora import TARGETS, Lora, LoraParam, merged, split_trainable, without_adapters
from arft_jax.models.qwen2_5_vl.model import Qwen2_5_VL
from arft_jax.models.qwen2_5_vl.packing import count_windows, pack_layout
from arft_jax.steps.init import init_params
from arft_jax.testing import logits_oracle, parity
from arft_jax.testing.tiny_model import tiny_config, tiny_model

EVERYWHERE = Lora(rank=2, alpha=6.0, vision=True)
TOLERANCE = 2e-4  # float32, W + A B against W x + A (B x); logits are of order 10


def _logits(graphdef, params):
    """Of one row with an image, so that both towers take part."""
    model = nnx.merge(graphdef, params)
    config, grid = model.config, (1, 4, 6)
    rng = np.random.default_rng(0)
    patches = jnp.asarray(rng.normal(size=(1, 24, config.vision.patch_dim)), jnp.float32)
    window = (config.vision.window_px, config.vision.patch_px)
    layout = pack_layout([grid], 24, count_windows([grid], *window), *window, 2)
    features = model.encode(patches, type(layout)(*(jnp.asarray(a)[None] for a in layout)))[0]
    index = jnp.asarray([[-1, -1, 0, 1, 2, 3, 4, 5, -1, -1, -1]], jnp.int32)
    tokens = jnp.asarray(rng.integers(0, 100, index.shape), jnp.int32)
    positions = jnp.broadcast_to(jnp.arange(index.shape[1], dtype=jnp.int32), (1, 3, index.shape[1]))
    hidden = model.hidden(model.embed(tokens, features, index), positions, jnp.zeros_like(index))
    return np.asarray(model.logits(hidden))


@pytest.fixture(scope="module")
def adapted():
    return nnx.split(tiny_model(lora=EVERYWHERE))


def _base(params):
    return nnx.split_state(params, LoraParam, ...)[1]


def test_a_fresh_adapter_changes_nothing():
    config = tiny_config()
    drawn = [
        init_params(lambda rngs, lora=lora: Qwen2_5_VL(config, rngs=rngs, lora=lora), 3)
        for lora in (Lora(), EVERYWHERE)
    ]
    plain, fresh = (_logits(*pair) for pair in drawn)
    np.testing.assert_array_equal(fresh, plain)
    for a, b in zip(jax.tree.leaves(drawn[0][1]), jax.tree.leaves(_base(drawn[1][1])), strict=True):
        np.testing.assert_array_equal(a, b)
    (trained, frozen) = split_trainable(drawn[1][1])
    assert {keys[-1] for keys, _ in nnx.to_flat_state(trained)} == {"lora_a", "lora_b"}
    assert all(np.abs(v[...]).max() > 0 for keys, v in nnx.to_flat_state(trained) if keys[-1] == "lora_a")
    assert len(jax.tree.leaves(frozen)) == len(jax.tree.leaves(drawn[0][1]))


def test_merged_adapters_compute_the_same(adapted):
    graphdef, params = adapted
    plain = nnx.split(tiny_model())[0]
    want, base = _logits(graphdef, params), _logits(plain, _base(params))
    assert np.abs(want - base).max() > 1  # the adapters do something
    np.testing.assert_allclose(_logits(plain, merged(params, EVERYWHERE.scale)), want, atol=TOLERANCE)


def test_without_its_adapters_a_policy_is_its_base(adapted):
    graphdef, params = adapted
    np.testing.assert_array_equal(
        _logits(graphdef, without_adapters(params)), _logits(nnx.split(tiny_model())[0], _base(params))
    )


def test_an_adapter_is_scaled_by_alpha_over_rank_in_the_product_and_in_the_merged_kernel():
    """y = x W + (alpha / r) (x A) B, worked by hand for r = 2, alpha = 6."""
    layer = Linear(
        (2,), (3,), ("embed", "mlp"), bias=False, rngs=nnx.Rngs(params=0, lora=1),
        dtype=jnp.float32, param_dtype=jnp.float32, lora=Lora(rank=2, alpha=6.0),
    )  # fmt: skip
    layer.kernel[...] = jnp.asarray([[1.0, 2.0, 0.0], [3.0, 0.0, 1.0]])
    layer.lora_a[...] = jnp.asarray([[1.0, -1.0], [2.0, 1.0]])
    layer.lora_b[...] = jnp.asarray([[1.0, 0.0, 2.0], [0.0, 1.0, 1.0]])
    # x W = [7 2 2]; x A = [5 1]; x A B = [5 1 11]; alpha / r = 3; 7 + 3 * 5 = 22, 2 + 3 * 1 = 5, 2 + 3 * 11 = 35
    np.testing.assert_array_equal(layer(jnp.asarray([[1.0, 2.0]])), [[22.0, 5.0, 35.0]])
    # A B = [[1 -1 1] [2 1 5]]; W + 3 A B
    kernel = merged(nnx.state(layer, nnx.Param), Lora(rank=2, alpha=6.0).scale)["kernel"]
    np.testing.assert_array_equal(kernel[...], [[4.0, -1.0, 3.0], [9.0, 3.0, 16.0]])


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft's own
def test_adapters_compute_what_those_of_peft_compute():
    """All seven kinds of map of the decoder, on sequences with images, logits at every position."""
    peft = pytest.importorskip("peft")
    torch = pytest.importorskip("torch")
    theirs = logits_oracle.their_model(True)
    shapes = {name: tuple(value.shape) for name, value in theirs.state_dict().items()}
    lora = Lora(rank=3, alpha=7.0)
    names = {name: f"mlp.{name}" if name in ("gate", "up", "down") else f"self_attn.{name}" for name in TARGETS}
    theirs = peft.get_peft_model(
        theirs, peft.LoraConfig(r=3, lora_alpha=7, target_modules=r".*language_model\.layers.*_proj")
    ).eval()
    ours = Qwen2_5_VL(logits_oracle.oracle_config(True), rngs=nnx.Rngs(params=0, lora=1), lora=lora)
    nnx.update(ours, nnx.state(logits_oracle.oracle_model(shapes, True), nnx.Param))
    modules, rng = dict(theirs.named_modules()), np.random.default_rng(0)
    for name, where in names.items():
        own = getattr(ours.text.layers.mlp if where.startswith("mlp") else ours.text.layers, name)
        a, b = (0.3 * rng.normal(size=p.shape).astype(np.float32) for p in (own.lora_a, own.lora_b))
        own.lora_a[...], own.lora_b[...] = jnp.asarray(a), jnp.asarray(b)
        for layer in range(ours.config.text.n_layers):
            at = modules[f"base_model.model.model.language_model.layers.{layer}.{where}_proj"]
            with torch.no_grad():
                at.lora_A["default"].weight.copy_(torch.tensor(a[layer].reshape(-1, 3).T))
                at.lora_B["default"].weight.copy_(torch.tensor(b[layer].reshape(3, -1).T))
    batch = logits_oracle.oracle_batch()
    inputs = parity.make_inputs(batch, ours.config, logits_oracle.SIZES)
    want = parity.their_stages(theirs.base_model.model, batch)["logits"]
    base = parity.their_stages(logits_oracle.their_model(True), batch)["logits"]
    assert np.abs(want - base).max() > 1  # the adapters do something
    graphdef, params = nnx.split(ours)
    got = np.asarray(jax.jit(lambda p, x: parity.our_logits(nnx.merge(graphdef, p), x))(params, inputs))[inputs.valid]
    np.testing.assert_allclose(got, want, rtol=0, atol=parity.tolerance(want))


def test_only_the_targets_are_adapted():
    model = nnx.eval_shape(
        lambda: Qwen2_5_VL(tiny_config(), rngs=nnx.Rngs(0), lora=Lora(rank=2, targets=("q", "down")))
    )
    paths = {keys[:-1] for keys, _ in nnx.to_flat_state(nnx.state(model, LoraParam))}
    assert paths == {("text", "layers", "q"), ("text", "layers", "mlp", "down")}
    a = nnx.state(model, LoraParam)["text"]["layers"]["q"]["lora_a"]
    assert a.shape == (3, 48, 2) and a.get_metadata("axes") == ("layers", "embed", "lora_rank")


def test_of_the_vision_blocks_only_the_targets_are_adapted():
    lora = Lora(rank=2, targets=(), vision=True, vision_targets=("qkv", "up"))
    model = nnx.eval_shape(lambda: Qwen2_5_VL(tiny_config(), rngs=nnx.Rngs(0), lora=lora))
    paths = {keys[:-1] for keys, _ in nnx.to_flat_state(nnx.state(model, LoraParam))}
    assert paths == {("vision", "blocks", "qkv"), ("vision", "blocks", "mlp", "up")}


def test_rank_stabilised_adapters_are_scaled_by_alpha_over_the_root_of_the_rank():
    assert Lora(rank=16, alpha=8.0, rslora=True).scale == 2.0 and Lora(rank=16, alpha=8.0).scale == 0.5


def test_adapters_are_float32_beside_a_bfloat16_base():
    model = nnx.eval_shape(
        lambda: Qwen2_5_VL(tiny_config(), rngs=nnx.Rngs(0), param_dtype=jnp.bfloat16, lora=EVERYWHERE)
    )
    adapters, base = nnx.split_state(nnx.state(model, nnx.Param), LoraParam, ...)
    assert {leaf.dtype for leaf in jax.tree.leaves(adapters)} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(base)} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize(
    "bad",
    [
        dict(rank=-1),
        dict(rank=2, alpha=0.0),
        dict(rank=2, targets=("q", "lm_head")),
        dict(rank=2, targets=()),
        dict(rank=2, vision=True, vision_targets=("q",)),
        dict(rank=2, targets=(), vision=True, vision_targets=()),
    ],
)
def test_an_adapter_that_cannot_be_is_refused(bad):
    with pytest.raises(ValueError, match=r"an adapter must have .*\(config.model.lora\)"):
        Lora(**bad)
    Lora(rank=2, targets=(), vision=True)
    Lora(rank=0, targets=())
