"""What is exported comes back bit for bit, is what transformers reads, and is never half there."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from arft_jax.io import export
from arft_jax.io.export import save_params
from arft_jax.io.weights import load_model_config, load_params, params_from_hf
from arft_jax.models.qwen2_5_vl.packing import count_windows, pack_layout
from arft_jax.models.qwen2_5_vl.positions import mrope_positions
from arft_jax.testing.tiny_model import tiny_config, tiny_model

TOLERANCE = 1e-4  # float32 in both, sums in another order; logits are of order 1 to 10


def _params(model):
    return nnx.state(model, nnx.Param)


def _bits(leaf):
    return np.asarray(leaf).view(np.uint16 if leaf.dtype == jnp.bfloat16 else np.uint32)


@pytest.mark.parametrize("limit", [10**9, 200_000], ids=["one_file", "shards"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_exported_comes_back_bit_for_bit(tmp_path, limit, tied, dtype):
    config = tiny_config(tied=tied)
    params = _params(tiny_model(config, seed=1, param_dtype=jnp.dtype(dtype)))
    out = tmp_path / "deep" / "out"
    save_params(out, params, config, dtype=dtype, max_shard_bytes=limit)
    assert (out / "model.safetensors").exists() == (limit == 10**9)
    assert sorted(path.name for path in out.parent.iterdir()) == ["out"]  # nothing temporary is left
    assert load_model_config(out) == config
    again = load_params(out, jax.eval_shape(lambda: params))
    for got, want in zip(jax.tree.leaves(again), jax.tree.leaves(params), strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(_bits(got), _bits(want))


def test_names_and_shapes_are_the_published_ones(tmp_path):
    config = tiny_config(tied=False)
    save_params(tmp_path, _params(tiny_model(config)), config)  # an empty directory is taken
    tensors = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    assert len(shapes) == 3 * 12 + 4 * 12 + 3 + 1 + 5  # layers, blocks, ends of the decoder, patches, merger
    for name, shape in {
        "lm_head.weight": (160, 48),
        "model.embed_tokens.weight": (160, 48),
        "model.layers.2.self_attn.k_proj.weight": (24, 48),
        "model.layers.0.self_attn.k_proj.bias": (24,),
        "model.layers.0.mlp.down_proj.weight": (48, 80),
        "visual.blocks.3.attn.qkv.weight": (96, 32),
        "visual.merger.mlp.2.weight": (48, 128),
        "visual.patch_embed.proj.weight": (32, 3, 2, 14, 14),
    }.items():
        assert shapes[name] == shape


def test_a_tied_model_writes_no_head_and_the_type_is_in_the_config(tmp_path):
    config = tiny_config(tied=True)
    extra = {"eos_token_id": 7}
    save_params(tmp_path / "a", _params(tiny_model(config)), config, dtype="bfloat16", config_extra=extra)
    with safetensors.safe_open(tmp_path / "a" / "model.safetensors", framework="np") as file:
        assert "lm_head.weight" not in file.keys()
        assert file.get_slice("model.norm.weight").get_dtype() == "BF16"
    written = json.loads((tmp_path / "a" / "config.json").read_text())
    assert written["dtype"] == written["torch_dtype"] == written["text_config"]["dtype"] == "bfloat16"
    assert written["tie_word_embeddings"] and written["eos_token_id"] == written["text_config"]["eos_token_id"] == 7


def test_files_are_put_beside_the_weights_and_a_config_among_them_is_kept(tmp_path):
    config = tiny_config()
    files = {"tokenizer.json": b"{}", "config.json": json.dumps(config.to_hf() | {"mine": 1}).encode()}
    save_params(tmp_path / "a", _params(tiny_model(config)), config, files=files)
    assert (tmp_path / "a" / "tokenizer.json").read_bytes() == b"{}"
    assert json.loads((tmp_path / "a" / "config.json").read_text())["mine"] == 1


def test_rounding_to_bfloat16_is_to_nearest_even(tmp_path):
    config = tiny_config()
    params = _params(tiny_model(config))
    row = jnp.array([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-7], jnp.float32)  # two halves, one exact
    scale = params["text"]["norm"]["scale"]
    scale[...] = jnp.zeros(48).at[:3].set(row)
    save_params(tmp_path / "a", params, config, dtype="bfloat16")
    got = load_params(tmp_path / "a", params)["text"]["norm"]["scale"]
    np.testing.assert_array_equal(got[:3], [1, 1 + 2**-6, 1 + 2**-7])


# -------------------------------------------------------------- refused, undone


def test_a_directory_that_is_not_empty_is_refused_and_left_alone(tmp_path):
    config = tiny_config()
    (tmp_path / "kept").write_text("mine")
    for path in (tmp_path, tmp_path / "kept"):
        with pytest.raises(ValueError, match=f"must be new or empty: got {path}"):
            save_params(path, _params(tiny_model(config)), config)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_failure_half_way_leaves_nothing(tmp_path, monkeypatch):
    config = tiny_config()
    write = export.write_tensors

    def fail(*args):
        write(*args)
        raise OSError("no space left on device")

    monkeypatch.setattr(export, "write_tensors", fail)
    with pytest.raises(OSError, match="no space left"):
        save_params(tmp_path / "out", _params(tiny_model(config)), config)
    assert list(tmp_path.iterdir()) == []


def test_parameters_of_another_model_are_told_at_once(tmp_path):
    config = tiny_config(tied=False)
    model = tiny_model(tiny_config(tied=True, vocab_size=96))
    model.text.adapter = nnx.Param(jnp.zeros(2))
    with pytest.raises(ValueError) as caught:
        save_params(tmp_path / "out", _params(model), config)
    message = str(caught.value)
    assert message.startswith("3 problems in the parameters: no rule for parameter text.adapter")
    assert "text.embedding is (96, 48), the configuration has (160, 48)" in message
    assert "text.unembedding is absent, the configuration has (48, 160)" in message
    assert list(tmp_path.iterdir()) == []


def test_other_types_and_limits_are_refused(tmp_path):
    config = tiny_config()
    params = _params(tiny_model(config))
    with pytest.raises(ValueError, match="dtype must be among .* got 'int8'"):
        save_params(tmp_path / "out", params, config, dtype="int8")
    with pytest.raises(ValueError, match="max_shard_bytes must be positive: got 0"):
        save_params(tmp_path / "out", params, config, max_shard_bytes=0)


# ----------------------------------------------------------------- transformers


def _inputs(config):
    rng = np.random.default_rng(0)
    grid = (1, 6, 10)
    image = [config.image_token_id] * 15
    ends = [[config.vision_start_token_id], [config.vision_end_token_id]]
    tokens = np.concatenate([rng.integers(0, 100, 5), ends[0], image, ends[1], rng.integers(0, 100, 9)])
    return tokens.astype(np.int32), rng.normal(size=(60, 1176)).astype(np.float32), [grid]


def _their_logits(model, tokens, patches, grids):
    import torch

    ids = torch.tensor(tokens[None].astype(np.int64))
    with torch.no_grad():
        return model(
            input_ids=ids, mm_token_type_ids=(ids == model.config.image_token_id).int(),
            pixel_values=torch.tensor(patches), image_grid_thw=torch.tensor(grids),
        ).logits[0].numpy()  # fmt: skip


def _our_logits(model, tokens, patches, grids):
    vision = model.config.vision
    window = (vision.window_px, vision.patch_px)
    layout = pack_layout(grids, len(patches), count_windows(grids, *window), *window, 2)
    layout = type(layout)(*(jnp.asarray(a)[None] for a in layout))
    features = model.encode(jnp.asarray(patches)[None], layout)[0]
    is_image = tokens == model.config.image_token_id
    index = np.where(is_image, np.cumsum(is_image) - 1, -1).astype(np.int32)
    positions, _ = mrope_positions(tokens, grids, model.config.image_token_id, 2)
    embeds = model.embed(jnp.asarray(tokens)[None], features, jnp.asarray(index)[None])
    hidden = model.hidden(embeds, jnp.asarray(positions)[None], jnp.zeros((1, len(tokens)), jnp.int32))
    return np.asarray(model.logits(hidden)[0])


@pytest.mark.torch
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.filterwarnings("default")  # torch's and transformers' own
def test_transformers_loads_an_export_whole_and_its_logits_agree(tmp_path, tied):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    config = tiny_config(tied=tied)
    ours = tiny_model(config, seed=3)
    save_params(tmp_path / "out", _params(ours), config, max_shard_bytes=300_000)
    theirs, info = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert theirs.dtype == torch.float32
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    inputs = _inputs(config)
    want = _their_logits(theirs.eval(), *inputs)
    assert np.abs(want).max() > 1.0
    assert np.abs(_our_logits(ours, *inputs) - want).max() <= TOLERANCE


@pytest.mark.torch
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "how",
    [{"max_shard_size": "200KB"}, {}, {"save_original_format": False}],
    ids=["shards", "one_file", "later_layout"],
)
@pytest.mark.filterwarnings("default")
def test_what_transformers_saves_is_read_and_the_logits_agree(tmp_path, tied, how):
    transformers = pytest.importorskip("transformers")
    config = tiny_config(tied=tied)
    seed = tiny_model(config, seed=6)
    save_params(tmp_path / "seed", _params(seed), config)
    theirs = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path / "seed").eval()
    theirs.save_pretrained(tmp_path / "theirs", **how)
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) == (4 if "max_shard_size" in how else 1)
    assert load_model_config(tmp_path / "theirs") == config
    ours = tiny_model(config, seed=0)
    nnx.update(ours, load_params(tmp_path / "theirs", _params(ours)))
    inputs = _inputs(config)
    assert np.abs(_our_logits(ours, *inputs) - _their_logits(theirs, *inputs)).max() <= TOLERANCE
    memory = {name: value.numpy() for name, value in theirs.state_dict().items()}
    for a, b in zip(
        jax.tree.leaves(params_from_hf(_params(ours), memory)), jax.tree.leaves(_params(ours)), strict=True
    ):
        np.testing.assert_array_equal(a, b)
