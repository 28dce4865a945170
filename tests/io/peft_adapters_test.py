"""Adapters of PEFT: there and back bit for bit, under peft's names, and what is refused."""

import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from arft_jax.io.export import save_params
from arft_jax.io.peft_adapters import CONFIG, TENSORS, check_adapter, load_adapter, save_adapter, target_pattern
from arft_jax.io.weights import abstract_params
from arft_jax.models.decoders.config import DecoderConfig
from arft_jax.models.lora import Lora, LoraParam, merged
from arft_jax.models.qwen2_5_vl.model import Qwen2_5_VL
from arft_jax.testing import logits_oracle, parity
from arft_jax.testing.tiny_model import tiny_config, tiny_model

SIZES = tiny_config()
TEXT = Lora(rank=2, alpha=6.0, targets=("q", "o", "up"))
BOTH = Lora(rank=3, alpha=7.5, targets=("v", "down"), vision=True, vision_targets=("qkv", "gate"), rslora=True)
EVERYWHERE = Lora(rank=2, alpha=6.0, vision=True)
BLOCK, LAYER = "base_model.model.model.visual.blocks.1.", "base_model.model.model.language_model.layers.1."


def _params(lora, seed=0):
    """A policy with adapters that do something."""
    return nnx.state(tiny_model(seed=seed, lora=lora), nnx.Param)


def _adapters(params):
    return nnx.split_state(params, LoraParam, ...)[0]


def _tensors(folder):
    return safetensors.numpy.load_file(folder / TENSORS)


@pytest.fixture(scope="module")
def everywhere(tmp_path_factory):
    """(a policy that has adapters everywhere, the directory that they are written to)."""
    params, folder = _params(EVERYWHERE), tmp_path_factory.mktemp("adapters") / "everywhere"
    save_adapter(folder, params, SIZES, EVERYWHERE, base="Qwen/Tiny")
    return params, folder


@pytest.fixture
def written(everywhere, tmp_path):
    """A copy of that directory."""
    return shutil.copytree(everywhere[1], tmp_path / "adapter")


@pytest.mark.parametrize("lora", [TEXT, BOTH], ids=["text", "some of both"])
def test_what_is_written_is_read_bit_for_bit(tmp_path, lora):
    params = _params(lora)
    save_adapter(tmp_path / "out", params, SIZES, lora)
    assert check_adapter(tmp_path / "out", SIZES) == lora
    want = _adapters(params)
    got = load_adapter(tmp_path / "out", jax.tree.map(jnp.zeros_like, want), None, SIZES.family.weights)
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for (path, one), (_, other) in zip(nnx.to_flat_state(got), nnx.to_flat_state(want), strict=True):
        np.testing.assert_array_equal(one[...], other[...], err_msg=str(path))


def test_a_tensor_is_one_layers_matrix_transposed_under_the_name_of_its_module(everywhere):
    """Of the fused map of the vision blocks B's rows are q's, k's and v's, head by head, as in its kernel."""
    params, tensors = everywhere[0], _tensors(everywhere[1])
    block, layer = params["vision"]["blocks"], params["text"]["layers"]
    qkv = block["qkv"]["lora_b"][...][1]  # [r, 3, heads, head_dim]
    assert qkv.shape == (2, 3, 2, 16)
    got = tensors[f"{BLOCK}attn.qkv.lora_B.weight"]
    assert got.shape == (96, 2)
    for which, head, dim in [(0, 0, 0), (1, 0, 5), (2, 1, 15)]:
        np.testing.assert_array_equal(got[which * 32 + head * 16 + dim], qkv[:, which, head, dim])
    o = layer["o"]["lora_a"][...][1]  # [heads, head_dim, r]
    got = tensors[f"{LAYER}self_attn.o_proj.lora_A.weight"]
    assert (o.shape, got.shape) == ((4, 12, 2), (2, 48))
    np.testing.assert_array_equal(got[:, 2 * 12 + 7], o[2, 7])
    np.testing.assert_array_equal(tensors[f"{LAYER}mlp.up_proj.lora_B.weight"], layer["mlp"]["up"]["lora_b"][...][1].T)
    assert len(tensors) == 2 * (7 * SIZES.text.n_layers + 5 * SIZES.vision.n_layers)


def test_the_settings_say_what_the_adapters_are(tmp_path):
    save_adapter(tmp_path / "out", _params(BOTH), SIZES, BOTH, base="Qwen/Tiny")
    settings = json.loads((tmp_path / "out" / CONFIG).read_text())
    want = dict(peft_type="LORA", task_type="CAUSAL_LM", base_model_name_or_path="Qwen/Tiny", r=3, lora_alpha=7.5)
    assert want | {"use_rslora": True, "bias": "none"} == {
        name: settings[name] for name in (*want, "use_rslora", "bias")
    }
    save_adapter(tmp_path / "half", _adapters(_params(TEXT)), SIZES, TEXT, dtype="bfloat16")
    settings = json.loads((tmp_path / "half" / CONFIG).read_text())
    assert settings["base_model_name_or_path"] is None and repr(settings["lora_alpha"]) == "6"
    header = (tmp_path / "half" / TENSORS).read_bytes()[8:2000]
    assert b'"BF16"' in header and b'"F32"' not in header


def test_the_pattern_takes_the_adapted_modules_and_no_others(tmp_path):
    """A list of last names would take the vision blocks' gate, up and down too."""
    save_adapter(tmp_path / "out", _params(TEXT), SIZES, TEXT)
    pattern = json.loads((tmp_path / "out" / CONFIG).read_text())["target_modules"]
    names = [
        f"model.language_model.layers.12.{name}" for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj")
    ]
    assert all(re.fullmatch(pattern, name) for name in names)
    others = [
        "model.language_model.layers.1.mlp.gate_proj",
        "model.visual.blocks.0.mlp.up_proj",
        "lm_head",
        "mlp.up_proj",
    ]
    assert not any(re.fullmatch(pattern, name) for name in others)
    assert target_pattern(["a.{}.b", "c.d"]) == r"a\.\d+(\.b)|c\.d"


def test_names_of_earlier_transformers_are_read(written):
    """Its decoder was ``model.layers`` and its tower ``visual``."""
    tensors = _tensors(written)
    older = {
        name.replace("model.language_model.layers", "model.layers").replace("model.model.visual", "model.visual"): value
        for name, value in tensors.items()
    }
    assert not older.keys() & tensors.keys()
    safetensors.numpy.save_file(older, written / TENSORS)
    assert check_adapter(written, SIZES) == EVERYWHERE


def test_a_text_decoders_adapters_have_its_own_names(tmp_path):
    keys = dict(
        model_type="llama", vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64,
    )  # fmt: skip
    sizes, lora = DecoderConfig.from_hf(keys), Lora(rank=1, alpha=2.0, targets=("k",))
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), abstract_params(sizes, lora=lora))
    save_adapter(tmp_path / "out", params, sizes, lora)
    assert sorted(_tensors(tmp_path / "out")) == [
        f"base_model.model.model.layers.{layer}.self_attn.k_proj.lora_{factor}.weight"
        for layer in range(2)
        for factor in "AB"
    ]
    assert check_adapter(tmp_path / "out", sizes) == lora


# -------------------------------------------------------------------- refusals


def _set(folder, **settings):
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def _change(folder, drop=(), **tensors):
    kept = {name: value for name, value in _tensors(folder).items() if name not in drop}
    safetensors.numpy.save_file(kept | tensors, folder / TENSORS)


def _with_nan(value):
    value = value.copy()
    value[0, 0] = np.nan
    return value


UNSUPPORTED = [
    (dict(use_dora=True), "use_dora must be empty, it is not supported: got true"),
    (dict(modules_to_save=["lm_head"]), 'modules_to_save must be empty, it is not supported: got ["lm_head"]'),
    (dict(bias="all"), "bias must be 'none', trained biases are not supported: got 'all'"),
    (dict(lora_bias=True), "lora_bias must be empty"),
    (dict(rank_pattern={"q_proj": 4}), "rank_pattern must be empty"),
    (dict(alpha_pattern={"q_proj": 4}), "alpha_pattern must be empty"),
    (dict(a_later_setting="on"), "a_later_setting must be empty"),
    (dict(init_lora_weights="pissa"), "must be a way to begin that leaves the base as it is: got 'pissa'"),
    (dict(peft_type="IA3"), "peft_type must be 'LORA': got 'IA3'"),
    (dict(r=True), "r must be a whole number above 0: got True"),
    (dict(lora_alpha=0), "lora_alpha must be a number above 0: got 0"),
    (dict(use_rslora="yes"), "use_rslora must be true or false: got 'yes'"),
]


def test_settings_that_are_not_supported_are_refused_all_at_once(written):
    for settings, _ in UNSUPPORTED:
        _set(written, **settings)
    with pytest.raises(ValueError) as caught:
        check_adapter(written, SIZES)
    told = str(caught.value)
    assert told.startswith(f"{len(UNSUPPORTED)} problems in the adapter {written}: {CONFIG}: ")
    assert told.endswith("(config.model.lora.adapter)")
    for _, sentence in UNSUPPORTED:
        assert sentence in told, (sentence, told)


def test_settings_that_change_nothing_are_read(written):
    _set(written, lora_dropout=0.1, init_lora_weights="gaussian", megatron_core="megatron.core", qalora_group_size=16)
    _set(written, use_dora=False, layer_replication=None, loftq_config={}, exclude_modules="lm_head", task_type=None)
    assert check_adapter(written, SIZES) == EVERYWHERE


def test_every_fault_is_told_at_once_with_file_tensor_and_key(written):
    lost, bad = f"{LAYER}self_attn.q_proj.lora_B.weight", f"{LAYER}self_attn.k_proj.lora_A.weight"
    merger = "base_model.model.model.visual.merger.mlp.0.lora_A.weight"
    tensors = {bad: _with_nan(_tensors(written)[bad]), merger: np.zeros((2, 128), np.float32)}
    tensors[f"{BLOCK}attn.proj.lora_A.weight"] = np.zeros((2, 31), np.float32)
    tensors[f"{BLOCK}attn.qkv.lora_A.weight"] = np.zeros((2, 32), np.int32)
    _change(written, drop=(lost,), **tensors)
    _set(written, use_dora=True)
    with pytest.raises(ValueError) as caught:
        check_adapter(written, SIZES)
    told = str(caught.value)
    for part in (
        f"3 problems in the adapter {written}", "use_dora must be empty", f"got nan in {bad} of {written / TENSORS}",
        "unassigned: text.layers.q.lora_b needs text.layers.1.self_attn.q_proj.lora_B.weight", f"unmapped: {merger}",
        f"shape clash: {BLOCK}attn.proj.lora_A.weight is (2, 31)", f"type: {BLOCK}attn.qkv.lora_A.weight is int32",
        "(config.model.lora.adapter)",
    ):  # fmt: skip
        assert part in told, (part, told)


def test_the_adapters_of_another_base_are_refused(written):
    with pytest.raises(ValueError, match=r"shape clash: .*is \(80, 2\).*unassigned|unassigned.*shape clash"):
        check_adapter(written, tiny_config(mlp_dim=96, n_layers=4))


def test_a_pickle_is_refused_with_the_reason(written):
    (written / TENSORS).rename(written / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"adapter_model.bin, a pickle, .* it can run code.*config.model.lora.adapter"):
        check_adapter(written, SIZES)


@pytest.mark.parametrize(
    "break_it, sentence",
    [
        (lambda folder: (folder / CONFIG).unlink(), f"holds no {CONFIG}"),
        (lambda folder: (folder / TENSORS).unlink(), f"must have its tensors in {TENSORS}"),
        (lambda folder: (folder / CONFIG).write_text("{"), f"{CONFIG} must be JSON"),
        (lambda folder: (folder / CONFIG).write_text("[]"), f"{CONFIG} must be a JSON object"),
        (lambda folder: (folder / TENSORS).write_bytes(b"abc"), "truncated or corrupt"),
        (lambda folder: safetensors.numpy.save_file({}, folder / TENSORS), "must hold adapters of .*got no tensor"),
    ],
)
def test_a_directory_that_is_no_adapter_is_refused(written, break_it, sentence):
    break_it(written)
    with pytest.raises(ValueError, match=sentence):
        check_adapter(written, SIZES)


def test_what_cannot_be_written_is_refused_and_nothing_is_left(tmp_path, written):
    with pytest.raises(ValueError, match="must be new or empty"):
        save_adapter(written, _params(TEXT), SIZES, TEXT)
    with pytest.raises(ValueError, match=r"got a policy without adapters \(config.model.lora.rank\)"):
        save_adapter(tmp_path / "out", nnx.state(tiny_model(), nnx.Param), SIZES, TEXT)
    with pytest.raises(ValueError, match=r"dtype must be among .* \(--dtype\)"):
        save_adapter(tmp_path / "out", _params(TEXT), SIZES, TEXT, dtype="int8")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


# ------------------------------------------------------------------- with peft


def _logits(params, lora):
    """Ours, of the oracle's sequences with images, at every position."""
    sizes = logits_oracle.oracle_config(False)
    graphdef = nnx.split(nnx.eval_shape(lambda: Qwen2_5_VL(sizes, rngs=nnx.Rngs(0), lora=lora)))[0]
    inputs = parity.make_inputs(logits_oracle.oracle_batch(), sizes, logits_oracle.SIZES)
    run = jax.jit(lambda p, x: parity.our_logits(nnx.merge(graphdef, p), x))
    return np.asarray(run(params, inputs))[inputs.valid]


def _theirs(model):
    return parity.their_stages(model, logits_oracle.oracle_batch())["logits"]


def _oracle_base():
    theirs = logits_oracle.their_model(False)
    shapes = {name: tuple(value.shape) for name, value in theirs.state_dict().items()}
    return theirs, nnx.state(logits_oracle.oracle_model(shapes, False), nnx.Param)


@pytest.mark.torch
@pytest.mark.parametrize("lora", [TEXT, EVERYWHERE, BOTH], ids=["text", "everywhere", "rslora"])
@pytest.mark.filterwarnings("default")  # torch's, transformers' and peft's own
def test_peft_loads_what_is_written_and_computes_what_we_and_the_merged_export_compute(tmp_path, lora):
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    sizes = logits_oracle.oracle_config(False)
    theirs, base = _oracle_base()
    plain = _theirs(theirs)
    adapters = _adapters(nnx.state(tiny_model(sizes, seed=5, lora=lora), nnx.Param))
    params = nnx.merge_state(base, adapters)
    save_adapter(tmp_path / "adapter", params, sizes, lora)
    got = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").eval()
    n_adapted = sum("lora_A" in name for name, _ in got.named_parameters())
    assert n_adapted == len(_tensors(tmp_path / "adapter")) / 2
    ours, loaded = _logits(params, lora), _theirs(got.base_model.model)
    assert np.abs(loaded - plain).max() > 1  # the adapters do something
    np.testing.assert_allclose(loaded, ours, rtol=0, atol=parity.tolerance(ours))
    save_params(tmp_path / "merged", merged(params, lora.scale), sizes)
    whole = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path / "merged").eval()
    np.testing.assert_allclose(_theirs(whole), ours, rtol=0, atol=parity.tolerance(ours))


@pytest.mark.torch
@pytest.mark.parametrize(
    "settings, found",
    [
        # gate, up and down of the vision blocks have the same last names as the decoder's
        (
            dict(target_modules=["q_proj", "v_proj", "gate_proj", "up_proj", "down_proj"], task_type="CAUSAL_LM"),
            dict(targets=("q", "v", "gate", "up", "down"), vision=True, vision_targets=("gate", "up", "down")),
        ),
        (dict(target_modules=r".*visual\.blocks.*(qkv|proj)", use_rslora=True),
         dict(targets=(), vision=True, rslora=True)),
        (dict(target_modules=r".*language_model.*_proj"), {}),
    ],
    ids=["names", "vision", "pattern"],
)  # fmt: skip
@pytest.mark.filterwarnings("default")
def test_what_peft_writes_is_read_and_computes_the_same(tmp_path, settings, found):
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
    theirs, base = _oracle_base()
    plain = _theirs(theirs)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = peft.get_peft_model(theirs, peft.LoraConfig(r=4, lora_alpha=8, init_lora_weights=False, **settings))
        with torch.no_grad():
            for name, value in theirs.named_parameters():
                if "lora_" in name:
                    value.copy_(0.2 * torch.randn_like(value))
    theirs.eval().save_pretrained(tmp_path / "adapter")
    sizes = logits_oracle.oracle_config(False)
    lora = check_adapter(tmp_path / "adapter", sizes)
    assert lora == Lora(rank=4, alpha=8.0, **found)
    adapters = _adapters(abstract_params(sizes, lora=lora))
    adapters = load_adapter(tmp_path / "adapter", adapters, None, sizes.family.weights)
    want = _theirs(theirs.base_model.model)
    assert np.abs(want - plain).max() > 1
    got = _logits(nnx.merge_state(base, adapters), lora)
    np.testing.assert_allclose(got, want, rtol=0, atol=parity.tolerance(want))
