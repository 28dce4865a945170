"""Published weights into parameters: both layouts, all types, every fault in one message, shard by shard."""

import json
import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from arft_jax.io import weights
from arft_jax.io.weights import load_model_config, load_params, params_from_hf
from arft_jax.models.qwen2_5_vl.weight_names import WEIGHTS
from arft_jax.testing.tiny_model import tiny_config, tiny_model


def _published(model, later: bool):
    """The model's parameters in the published layout: the inverse of the conversion, written apart."""
    prefixes = ("model.visual.", "model.language_model.") if later else ("visual.", "model.")
    tensors = {}
    for keys, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        path, value = ".".join(map(str, keys)), np.asarray(variable[...])
        stacked = "layers" in variable.get_metadata("axes")
        for layer, piece in enumerate(value if stacked else value[None]):
            name = WEIGHTS.names[path].format(layer)
            if path.endswith("kernel"):
                n_in = 2 if keys[-2] in ("o", "proj") else 1
                piece = piece.reshape(int(np.prod(piece.shape[:n_in])), -1).T
            elif path.endswith("bias"):
                piece = piece.reshape(-1)
            elif path == "text.unembedding":
                piece = piece.T
            if "patch_embed" in path:
                piece = piece.reshape(-1, 3, 2, 14, 14)
            name = name.replace("visual.", prefixes[0], 1) if name.startswith("visual.") else name
            name = name.replace("text.", prefixes[1], 1) if name.startswith("text.") else name
            tensors[name] = np.ascontiguousarray(piece)
    return tensors


def _params(model):
    return nnx.state(model, nnx.Param)


def _abstract(tied=True, **kwargs):
    return nnx.eval_shape(lambda: nnx.state(tiny_model(tiny_config(tied=tied), **kwargs), nnx.Param))


def _save(folder, tensors, n_shards=1):
    """A directory written by the safetensors library, tensors dealt out to the shards in turn."""
    folder.mkdir(exist_ok=True)
    if n_shards == 1:
        safetensors.numpy.save_file(tensors, folder / "model.safetensors")
        return folder
    weight_map = {name: f"part-{number % n_shards}.safetensors" for number, name in enumerate(tensors)}
    for shard in set(weight_map.values()):
        part = {name: tensor for name, tensor in tensors.items() if weight_map[name] == shard}
        safetensors.numpy.save_file(part, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def _assert_same(got, want):
    for (keys, ours), (_, theirs) in zip(nnx.to_flat_state(got), nnx.to_flat_state(want), strict=True):
        np.testing.assert_array_equal(ours[...], theirs[...], err_msg=str(keys))
        assert ours.get_metadata("axes") == theirs.get_metadata("axes") and ours.dtype == theirs.dtype


# ------------------------------------------------------------- from memory


@pytest.mark.parametrize("later", [True, False], ids=["nested", "flat"])
@pytest.mark.parametrize("tied", [True, False])
def test_both_layouts_give_back_every_parameter(later, tied):
    source, target = (tiny_model(tiny_config(tied=tied), seed=seed) for seed in (0, 5))
    nnx.update(target, params_from_hf(_params(target), _published(source, later)))
    _assert_same(_params(target), _params(source))


def test_an_abstract_model_is_enough():
    source = tiny_model(seed=3)
    params = params_from_hf(_abstract(), _published(source, True))
    np.testing.assert_array_equal(params["text"]["embedding"][...], source.text.embedding[...])


def test_the_callers_arrays_may_change_afterwards():
    tensors = _published(tiny_model(), False)
    rows = tensors["model.embed_tokens.weight"]
    backing = np.zeros(rows.nbytes + 64, np.uint8)  # aligned as JAX likes it: it would keep this memory
    start = -backing.ctypes.data % 64
    aligned = backing[start : start + rows.nbytes].view(np.float32).reshape(rows.shape)
    aligned[:] = rows
    params = params_from_hf(_abstract(), tensors | {"model.embed_tokens.weight": aligned})
    aligned[:] = 7
    np.testing.assert_array_equal(params["text"]["embedding"][...], rows)


def test_every_fault_is_told_at_once(monkeypatch):
    model = tiny_model()
    tensors = _published(model, True)
    del tensors["model.language_model.layers.1.mlp.up_proj.weight"]
    tensors["model.visual.blocks.0.attn.qkv.bias"] = np.zeros(7, np.float32)
    tensors["model.visual.blocks.1.attn.qkv.bias"] = tensors["model.visual.blocks.1.attn.qkv.bias"].astype(np.int8)
    tensors["model.extra.weight"] = np.zeros(1, np.float32)
    tensors["model.language_model.rotary_emb.inv_freq"] = np.zeros(1, np.float32)  # computed: ignored
    monkeypatch.setattr(weights, "param_edits", None)  # whoever makes a parameter fails
    with pytest.raises(ValueError) as caught:
        params_from_hf(_params(model), tensors)
    message = str(caught.value)
    assert message.startswith("4 problems")
    assert "unassigned: text.layers.mlp.up.kernel needs text.layers.1.mlp.up_proj.weight" in message
    assert "shape clash: model.visual.blocks.0.attn.qkv.bias is (7,)" in message
    assert "type: model.visual.blocks.1.attn.qkv.bias is int8, must be among ('float32'" in message
    assert "unmapped: model.extra.weight" in message


def test_a_parameter_without_a_rule_and_a_tensor_in_both_layouts_are_told():
    model = tiny_model()
    tensors = _published(model, False)
    model.text.adapter = nnx.Param(jnp.zeros(2))
    tensors["model.language_model.norm.weight"] = tensors["model.norm.weight"]
    with pytest.raises(ValueError, match="2 problems.*no rule for parameter text.adapter.*names of both layouts"):
        params_from_hf(_params(model), tensors)


@pytest.mark.parametrize(
    "name", ["language_model.layers.0.mlp.up_proj", "visual.merger.mlp.2", "visual.patch_embed.proj"]
)
def test_a_transposed_kernel_is_a_shape_clash(name):
    model = tiny_model()
    tensors = _published(model, True)
    name = f"model.{name}.weight"
    tensors[name] = tensors[name].reshape(len(tensors[name]), -1).T
    with pytest.raises(ValueError, match="1 problems.*shape clash"):
        params_from_hf(_params(model), tensors)


def test_a_tied_head_may_be_repeated_but_not_differ():
    model = tiny_model()
    tensors = _published(model, True)
    tensors["lm_head.weight"] = tensors["model.language_model.embed_tokens.weight"].copy()
    params_from_hf(_params(model), tensors)
    tensors["lm_head.weight"][0, 0] += 1
    with pytest.raises(ValueError, match="tie_word_embeddings"):
        params_from_hf(_params(model), tensors)


# --------------------------------------------------------- from a directory


@pytest.mark.parametrize("n_shards", [1, 3])
@pytest.mark.parametrize("later", [True, False], ids=["nested", "flat"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_directory_gives_back_every_parameter(tmp_path, n_shards, later, tied):
    source = tiny_model(tiny_config(tied=tied), seed=2)
    _save(tmp_path, _published(source, later), n_shards)
    params = load_params(tmp_path, _abstract(tied))
    _assert_same(params, _params(source))


@pytest.mark.parametrize("on_disk", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("in_memory", [jnp.float32, jnp.bfloat16])
def test_values_are_cast_once_to_the_parameters_type(tmp_path, on_disk, in_memory):
    kind = np.dtype(ml_dtypes.bfloat16) if on_disk == "bfloat16" else np.dtype(on_disk)
    tensors = {name: tensor.astype(kind) for name, tensor in _published(tiny_model(), False).items()}
    params = load_params(_save(tmp_path, tensors), _abstract(param_dtype=in_memory))
    for got, name in (
        (params["text"]["embedding"], "model.embed_tokens.weight"),
        (params["text"]["layers"]["mlp"]["up"]["kernel"], "model.layers.{}.mlp.up_proj.weight"),
    ):
        want = [tensors[name.format(i)].astype(in_memory) for i in range(3)]
        want = np.stack([w.T for w in want]) if "{}" in name else want[0]
        assert got.dtype == in_memory
        np.testing.assert_array_equal(np.asarray(got[...]), want)


def test_a_repeated_head_in_a_directory_must_be_the_embedding(tmp_path):
    tensors = _published(tiny_model(), False)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    load_params(_save(tmp_path, tensors), _abstract())
    tensors["lm_head.weight"][-1, -1] += 1
    with pytest.raises(ValueError, match="lm_head.weight differs .*tie_word_embeddings"):
        load_params(_save(tmp_path, tensors), _abstract())
    with pytest.raises(ValueError, match="unassigned: text.unembedding needs lm_head.weight"):
        load_params(_save(tmp_path, _published(tiny_model(), False)), _abstract(tied=False))


def test_a_weight_that_is_no_number_is_refused_with_its_tensor_and_file(tmp_path, monkeypatch):
    tensors = {name: tensor.astype(ml_dtypes.bfloat16) for name, tensor in _published(tiny_model(), False).items()}
    name = "model.layers.2.mlp.up_proj.weight"
    monkeypatch.setattr(weights, "_CHUNK_BYTES", 1024)  # the last of several parts
    tensors[name][-1, -1] = np.nan
    with pytest.raises(ValueError, match=f"must be finite numbers: got nan in {name} of .*model.safetensors"):
        load_params(_save(tmp_path, tensors), _abstract())


def test_faults_of_a_directory_are_told_before_a_value_is_read(tmp_path, monkeypatch):
    tensors = _published(tiny_model(), False)
    del tensors["model.norm.weight"]
    tensors["visual.odd"] = np.zeros(1, np.float32)
    _save(tmp_path, tensors)
    monkeypatch.setattr(weights, "param_edits", None)
    with pytest.raises(ValueError, match="2 problems.*unassigned: text.norm.scale.*unmapped: visual.odd"):
        load_params(tmp_path, _abstract())
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=f"{path} must be a whole safetensors file"):
        load_params(tmp_path, _abstract())


def test_shardings_of_another_structure_are_refused():
    shardings = nnx.State({"text": {"embedding": jax.sharding.SingleDeviceSharding(jax.devices()[0])}})
    with pytest.raises(ValueError, match="shardings must have the structure of the parameters: none for"):
        params_from_hf(_abstract(), _published(tiny_model(), False), shardings)


# ------------------------------------------------------------------- config


@pytest.mark.parametrize(
    "text, sentence",
    [
        (None, "with config.json: .* holds none"),
        ("{", "must be JSON"),
        ("[]", "model_type must be one of qwen2_5_vl.*: got None"),
        ('{"model_type": "qwen2_vl"}', "model_type must be one of qwen2_5_vl.*: got 'qwen2_vl'"),
        ('{"model_type": "qwen2_5_vl"}', "lacks the key"),
        ('{"model_type": "qwen2_5_vl", "vision_config": 3}', "config.json"),
    ],
)
def test_a_config_that_is_none_is_refused(tmp_path, text, sentence):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=sentence):
        load_model_config(tmp_path)


def test_a_config_is_read(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(tiny_config(tied=False).to_hf()))
    assert load_model_config(tmp_path) == tiny_config(tied=False)


# ----------------------------------------------------------- eight devices


def test_shards_land_where_they_belong_with_the_values_of_one_device_and_come_out_again(tmp_path):
    source = tiny_model(tiny_config(tied=False), seed=4)
    _save(tmp_path / "in", _published(source, False), 3)
    script = """
        import pathlib, sys
        import jax, numpy as np
        from flax import nnx
        from arft_jax import sharding
        from arft_jax.io.export import save_params
        from arft_jax.io.weights import load_params
        from arft_jax.testing.tiny_model import tiny_config, tiny_model

        folder = pathlib.Path(sys.argv[1])
        source = nnx.state(tiny_model(tiny_config(tied=False), seed=4), nnx.Param)
        places = sharding.param_shardings(source, sharding.make_mesh({"data": 2, "fsdp": 2, "tensor": 2}))
        params = load_params(folder / "in", source, places)
        n_split = 0
        for got, want, place in zip(*map(jax.tree.leaves, (params, source, places)), strict=True):
            assert got.sharding == place and got.committed, (got.sharding, place)
            np.testing.assert_array_equal(got, want)
            n_split += got.addressable_shards[0].data.size < got.size
        assert n_split > 20, n_split
        for name, state in (("whole", source), ("split", params)):
            save_params(folder / name, state, tiny_config(tied=False))
        files = [(folder / name / "model.safetensors").read_bytes() for name in ("whole", "split")]
        assert files[0] == files[1]
        print("equal")
    """
    # A process of its own: the number of virtual devices is fixed when JAX starts.
    env = dict(os.environ, XLA_FLAGS="--xla_force_host_platform_device_count=8", JAX_PLATFORMS="cpu")
    env["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "equal"
