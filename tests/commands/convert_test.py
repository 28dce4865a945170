"""Both halves of the convert command: there and back, from a run, and what is refused."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from arft_jax.build import model as build
from arft_jax.commands import convert
from arft_jax.config import default_config
from arft_jax.data.chat_template import tiny_template
from arft_jax.data.tokenizer import Tokenizer
from arft_jax.io.checkpoints import Checkpoints
from arft_jax.io.peft_adapters import check_adapter, load_adapter
from arft_jax.io.safetensors_dir import open_tensors
from arft_jax.io.tiny_checkpoint import make_tiny_checkpoint, random_params
from arft_jax.io.weights import abstract_params, load_model_config, load_params
from arft_jax.models.lora import Lora, LoraParam
from arft_jax.train.run_dir import RunDir


@pytest.fixture
def weights(tmp_path):
    make_tiny_checkpoint(tmp_path / "hf")
    return tmp_path / "hf"


@pytest.fixture
def run(tmp_path):
    """(work directory, params) of a run with two saved steps, as the trainer writes them."""
    config = default_config()
    config.workdir = str(tmp_path / "run")
    config.model.vision_config.fullatt_block_indexes = (0,)
    config.data.update(min_pixels=3136, max_pixels=6272)
    RunDir(config)
    model = build.model_config(config, Tokenizer.tiny())
    with Checkpoints(tmp_path / "run" / "checkpoints", keep=2) as store:
        for step in (1, 2):
            params = random_params(model, step)
            state = {"params": params, "opt_state": jnp.zeros(5)}
            store.save(step, state, {"tokenizer": Tokenizer.tiny().sha256})
    return tmp_path / "run", params


def _values(folder):
    with open_tensors(folder) as files:
        return {name: files.read(name) for name in files.headers}


def test_a_directory_goes_in_and_comes_out_the_same(tmp_path, weights):
    line = convert.import_weights(str(weights), str(tmp_path / "ckpt"))
    assert "1.06M parameters in float32; wrote the checkpoint" in line
    line = convert.export_weights(str(tmp_path / "ckpt"), str(tmp_path / "out"), "bfloat16", max_shard_bytes=600_000)
    assert "step 0: 1.06M parameters in bfloat16" in line
    before, after = _values(weights), _values(tmp_path / "out")
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert after[name].dtype == value.dtype
        np.testing.assert_array_equal(after[name], value, err_msg=name)
    assert load_model_config(tmp_path / "out") == load_model_config(weights)
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json", "generation_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (weights / name).read_bytes()
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["eos_token_id"] == Tokenizer.tiny().eos_id


def test_an_import_that_fails_leaves_nothing_and_can_be_tried_again(tmp_path, weights, monkeypatch):
    def full(store, *args):
        (store.directory / "half").touch()
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", full)
        with pytest.raises(ValueError, match=r"got .*ckpt \(No space left on device\) \(--checkpoint\)"):
            convert.import_weights(str(weights), str(tmp_path / "ckpt"))
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]
    assert "wrote the checkpoint" in convert.import_weights(str(weights), str(tmp_path / "ckpt"))
    assert sorted(path.name for path in (tmp_path / "ckpt").iterdir()) == ["hf", "steps"]


def test_without_a_checkpoint_a_directory_is_only_checked(tmp_path, weights):
    assert "93 tensors, 1.06M parameters in float32; every name and shape fits" in convert.import_weights(str(weights))
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_the_newest_checkpoint_of_a_run_is_exported_with_its_files(tmp_path, run):
    folder, params = run
    assert "run, step 2: " in convert.export_weights(str(folder), str(tmp_path / "out"))
    model = load_model_config(tmp_path / "out")
    assert model.vision.full_layers == (0,) and model.text.vocab_size == Tokenizer.tiny().vocab_size
    got = load_params(tmp_path / "out", abstract_params(model))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(a, b)
    assert Tokenizer.load(tmp_path / "out").sha256 == Tokenizer.tiny().sha256
    settings = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert (settings["min_pixels"], settings["max_pixels"], settings["merge_size"]) == (3136, 6272, 2)


def test_another_tokenizer_than_the_runs_is_refused(tmp_path, run, weights):
    folder, _ = run
    convert.export_weights(str(folder), str(tmp_path / "same"), tokenizer=str(weights))  # the same file
    text = (weights / "tokenizer.json").read_text()
    (weights / "tokenizer.json").write_text(text + "\n")
    with pytest.raises(ValueError, match=r"must be the one .* trained with: .* \(--tokenizer\)"):
        convert.export_weights(str(folder), str(tmp_path / "out"), tokenizer=str(weights))
    assert not (tmp_path / "out").exists()


def test_a_runs_config_of_another_version_is_refused(tmp_path, run):
    path = run[0] / "config.json"
    written = json.loads(path.read_text())
    written["config"]["train.gone"] = 1
    path.write_text(json.dumps(written))
    with pytest.raises(ValueError, match="has the key 'train.gone', which is unknown here"):
        convert.export_weights(str(run[0]), str(tmp_path / "out"))
    path.write_text("{}")
    with pytest.raises(ValueError, match="must be the configuration of a run"):
        convert.export_weights(str(run[0]), str(tmp_path / "out"))


def test_a_checkpoint_of_another_model_is_refused(tmp_path, run):
    path = run[0] / "config.json"
    written = json.loads(path.read_text())
    written["config"]["model.text_config.intermediate_size"] = 100
    path.write_text(json.dumps(written))
    with pytest.raises(ValueError, match=r"on disk, float32\[4, 128, 100\] here"):
        convert.export_weights(str(run[0]), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "break_it, sentence",
    [
        (lambda hf: hf.rename(hf.with_name("gone")), r"weights must be a directory: got .* \(--weights\)"),
        (lambda hf: (hf / "config.json").unlink(), "config.json: .* holds none"),
        (lambda hf: (hf / "model-00002-of-00004.safetensors").unlink(), "names model-00002-of-00004.safetensors"),
        (lambda hf: _edit(hf, "config.json", '"hidden_size": 128', '"hidden_size": 160'), "problems|must"),
        (lambda hf: _edit(hf, "config.json", '"vocab_size": 1088', '"vocab_size": 1000'), "got 1000 < 1024"),
        (lambda hf: _edit(hf, "config.json", '"num_hidden_layers": 3', '"num_hidden_layers": 2'), "12 problems.*unmap"),
    ],
)
def test_a_directory_that_does_not_fit_is_refused_and_nothing_is_written(tmp_path, weights, break_it, sentence):
    break_it(weights)
    with pytest.raises(ValueError, match=sentence):
        convert.import_weights(str(weights), str(tmp_path / "ckpt"))
    assert not (tmp_path / "ckpt").exists()


def _edit(folder, name, old, new):
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new))


def test_directories_that_are_not_what_they_should_be_are_refused(tmp_path, weights):
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").touch()
    for call in (
        lambda: convert.import_weights(str(weights), str(full)),
        lambda: convert.export_weights(str(weights), str(full)),
    ):
        with pytest.raises(ValueError, match="must be new or empty: got .*full"):
            call()
    with pytest.raises(ValueError, match=r"work directory of a run or an imported checkpoint: got .* \(--checkpoint\)"):
        convert.export_weights(str(weights), str(tmp_path / "out"))
    with pytest.raises(ValueError, match=r"dtype must be among .* got 'float8' \(--dtype\)"):
        convert.import_weights(str(weights), dtype="float8")


@pytest.fixture
def adapted(tmp_path):
    """(work directory, sizes, params) of a run that trains adapters."""
    config = default_config()
    config.workdir = str(tmp_path / "run")
    config.model.lora.update(rank=2, alpha=4.0)
    RunDir(config)
    model = build.model_config(config, Tokenizer.tiny())
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype),
        abstract_params(model, lora=build.lora(config)),
    )
    with Checkpoints(tmp_path / "run" / "checkpoints", keep=1) as store:
        store.save(1, {"params": params}, {"tokenizer": Tokenizer.tiny().sha256})
    return tmp_path / "run", model, params


def test_adapters_of_a_run_are_merged_on_export_and_written_by_themselves(tmp_path, adapted):
    _, model, params = adapted
    line = convert.export_weights(
        str(tmp_path / "run"), str(tmp_path / "out"), adapter=str(tmp_path / "adapter"), base_model="Qwen/Tiny"
    )
    assert re.search(r"run, step 1: .*M parameters in float32 of adapters; wrote .*adapter; .* wrote .*out", line)
    assert check_adapter(tmp_path / "adapter", model) == Lora(rank=2, alpha=4.0)
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "Qwen/Tiny"
    got = load_params(tmp_path / "out", abstract_params(model))
    layer = params["text"]["layers"]["mlp"]["up"]
    want = layer["kernel"][...] + 2.0 * jnp.einsum("ldr,lrf->ldf", layer["lora_a"][...], layer["lora_b"][...])
    np.testing.assert_allclose(got["text"]["layers"]["mlp"]["up"]["kernel"][...], want, atol=1e-5)
    np.testing.assert_array_equal(got["text"]["embedding"][...], params["text"]["embedding"][...])


def test_adapters_alone_are_written_without_reading_the_base(tmp_path, adapted, monkeypatch):
    folder, model, params = adapted
    read_params, read = convert.params_checkpoint.read_params, []

    def reading(directory, step, wanted, **kwargs):
        read.extend(keys[-1] for keys, _ in nnx.to_flat_state(wanted))
        return read_params(directory, step, wanted, **kwargs)

    monkeypatch.setattr(convert.params_checkpoint, "read_params", reading)
    convert.export_weights(str(folder), "", adapter=str(tmp_path / "adapter"))
    assert set(read) == {"lora_a", "lora_b"}
    adapters = nnx.split_state(params, LoraParam, ...)[0]
    got = load_adapter(tmp_path / "adapter", adapters, None, model.family.weights)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(adapters), strict=True):
        np.testing.assert_array_equal(one, other)


def test_adapters_name_the_weights_that_the_run_was_started_from_as_their_base(tmp_path, weights):
    config = default_config()
    config.update(workdir=str(tmp_path / "run"), weights=str(weights))
    config.model.lora.update(rank=1, targets=("q",))
    RunDir(config)
    abstract = abstract_params(load_model_config(weights), lora=build.lora(config))
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), abstract)
    with Checkpoints(tmp_path / "run" / "checkpoints", keep=1) as store:
        store.save(1, {"params": params}, {"tokenizer": Tokenizer.tiny().sha256})
    convert.export_weights(str(tmp_path / "run"), "", adapter=str(tmp_path / "adapter"))
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(weights)


def test_adapters_that_cannot_be_written_are_refused(tmp_path, adapted):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for folder, out, adapter, sentence in (
        (adapted[0], "", "full", "must be new or empty: got .*full"),
        (adapted[0], "out", "out", r"a directory of their own: got .*out for both \(--adapter, --out\)"),
    ):
        with pytest.raises(ValueError, match=sentence):
            convert.export_weights(str(folder), out and str(tmp_path / out), adapter=str(tmp_path / adapter))
    assert not (tmp_path / "out").exists()


def test_a_run_without_adapters_writes_none(tmp_path, run):
    with pytest.raises(ValueError, match=r"must have adapters to write them: got .*run, without any \(--adapter\)"):
        convert.export_weights(str(run[0]), str(tmp_path / "out"), adapter=str(tmp_path / "adapter"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("own_tokenizer", [False, True])
def test_export_needs_nothing_but_the_runs_directory(tmp_path, weights, own_tokenizer):
    config = default_config()
    config.update(workdir=str(tmp_path / "run"), weights=str(weights))
    if own_tokenizer:  # other side files than the weights'
        (tmp_path / "tok").mkdir()
        (tmp_path / "tok" / "tokenizer.json").write_bytes((weights / "tokenizer.json").read_bytes())
        (tmp_path / "tok" / "chat_template.jinja").write_text("{{ mine }}")
        config.tokenizer = str(tmp_path / "tok")
    RunDir(config)
    model = load_model_config(weights)
    params = load_params(weights, abstract_params(model))
    with Checkpoints(tmp_path / "run" / "checkpoints", keep=1) as store:
        store.save(1, {"params": params}, {"tokenizer": Tokenizer.tiny().sha256})
    for name in ("hf", "tok"):
        if (tmp_path / name).exists():
            (tmp_path / name).rename(tmp_path / f"{name}_gone")
    (tmp_path / "run").rename(tmp_path / "moved")
    convert.export_weights(str(tmp_path / "moved"), str(tmp_path / "out"), "bfloat16")
    before, after = _values(tmp_path / "hf_gone"), _values(tmp_path / "out")
    assert before.keys() == after.keys() and all(np.array_equal(after[name], before[name]) for name in before)
    assert load_model_config(tmp_path / "out") == model
    assert Tokenizer.load(tmp_path / "out").sha256 == Tokenizer.tiny().sha256
    template = (tmp_path / "out" / "chat_template.jinja").read_text()
    assert template == ("{{ mine }}" if own_tokenizer else tiny_template())
    assert (tmp_path / "out" / "generation_config.json").exists() != own_tokenizer
