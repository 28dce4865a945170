"""GGUF files: the same parameters and token ids as of the directory that they were made of."""

import json
import sys

import numpy as np
import pytest
import safetensors.numpy
import transformers
from flax import nnx

from arft_jax.data.tokenizer import Tokenizer
from arft_jax.io import gguf_file, hf_files
from arft_jax.io.weights import abstract_params, load_model_config, load_params
from arft_jax.testing import decoders

NAMES = {theirs: ours for ours, theirs in gguf_file._TENSORS.items()}


def _gguf_name(name):
    if name.startswith("model.layers."):
        _, _, layer, rest = name.split(".", 3)
        stem, kind = rest.rsplit(".", 1)
        return f"blk.{layer}.{NAMES[stem]}.{kind}"
    stem, kind = name.rsplit(".", 1)
    return f"{NAMES[stem]}.{kind}"


def _paired(values, n_heads):
    """llama.cpp's order of a head's rows: i and i + H/2 side by side; written row by row."""
    out, width = np.empty_like(values), len(values) // n_heads
    for head in range(n_heads):
        for i in range(width // 2):
            out[head * width + 2 * i] = values[head * width + i]
            out[head * width + 2 * i + 1] = values[head * width + i + width // 2]
    return out


def write(path, folder, kind, quantised=False, extra=()):
    """A GGUF file of a directory, written with the gguf package."""
    gguf = pytest.importorskip("gguf")
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(path, kind)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    layout = json.loads((folder / "tokenizer.json").read_text())
    vocab = {**layout["model"]["vocab"], **{entry["content"]: entry["id"] for entry in layout["added_tokens"]}}
    kinds = {entry["content"]: 3 if entry["special"] else 4 for entry in layout["added_tokens"]}
    tokens = sorted(vocab, key=vocab.get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([kinds.get(token, 1) for token in tokens])
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in layout["model"]["merges"]])
    for name, value in safetensors.numpy.load_file(folder / "model.safetensors").items():
        if kind == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = "num_attention_heads" if "q_proj" in name else "num_key_value_heads"
            value = _paired(value, config[heads])
        if quantised and value.ndim == 2:
            kept = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(_gguf_name(name), gguf.quants.quantize(value, kept), raw_dtype=kept)
        else:
            writer.add_tensor(_gguf_name(name), value)
    for name, value in extra:
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(params=["llama", "qwen2"])
def directory(request, tmp_path):
    """(directory, its kind, its sizes) of a tiny checkpoint with a tokenizer."""
    folder = tmp_path / "hf"
    sizes = decoders.save_tiny(folder, request.param)
    for name, contents in hf_files.tokenizer_files().items():
        (folder / name).write_bytes(contents)
    return folder, request.param, sizes


@pytest.mark.parametrize("quantised", [False, True])
def test_a_file_holds_the_sizes_and_parameters_of_its_directory(directory, tmp_path, quantised):
    folder, kind, sizes = directory
    path = write(tmp_path / "model.gguf", folder, kind, quantised)
    read = load_model_config(path)
    assert read.text.norm_eps == pytest.approx(1e-5)  # kept in float32 there
    assert read.to_hf() == sizes.to_hf() | {"rms_norm_eps": read.text.norm_eps}
    want = load_params(folder, abstract_params(sizes))
    got = load_params(path, abstract_params(read))
    for (keys, ours), (_, theirs) in zip(nnx.to_flat_state(got), nnx.to_flat_state(want), strict=True):
        largest = np.abs(np.asarray(theirs[...])).max()
        step = largest / 127 if quantised and keys[-1] in ("kernel", "embedding", "unembedding") else 0.0
        assert np.abs(np.asarray(ours[...]) - np.asarray(theirs[...])).max() <= step, keys


def test_a_file_brings_its_tokenizer_and_one_beside_it_comes_first(directory, tmp_path):
    folder, kind, _ = directory
    path = write(tmp_path / "model.gguf", folder, kind)
    tokenizer, tiny = Tokenizer(gguf_file.tokenizer_text(path)), Tokenizer.tiny()
    model = json.loads(tiny.text)["model"]
    theirs = transformers.Qwen2Tokenizer(vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]])
    for text in (decoders.TEXT, "it's 3 o'clock\n\n  go\t<code>x = 1</code> u\u0308ni\u0308code 1234"):
        assert tokenizer.encode(text) == theirs(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.eos_id not in tokenizer.encode("<|im_end|>")
    assert (tokenizer.control_ids, tokenizer.eos_id) == (tiny.control_ids, tiny.eos_id)
    kept = tmp_path / "kept"
    hf_files.keep_files(kept, weights=str(path))
    assert load_model_config(kept) == load_model_config(path) and Tokenizer.load(kept).sha256 == tokenizer.sha256
    (tmp_path / "tokenizer.json").write_text("beside")
    assert gguf_file.tokenizer_text(path) == "beside"


def test_what_cannot_be_read_is_refused(directory, tmp_path):
    folder, kind, sizes = directory
    path = write(tmp_path / "scaled.gguf", folder, kind, extra=[("rope_freqs.weight", np.ones(8, np.float32))])
    with pytest.raises(ValueError, match=r"rope scaling must be none: got llama3 in .*config.weights"):
        load_model_config(path)
    path = write(tmp_path / "more.gguf", folder, kind, extra=[("blk.0.attn_q_norm.weight", np.ones(8, np.float32))])
    with pytest.raises(ValueError, match="unmapped: blk.0.attn_q_norm.weight"):
        load_params(path, abstract_params(sizes))
    values = safetensors.numpy.load_file(folder / "model.safetensors")
    values["model.norm.weight"][3] = np.inf
    (tmp_path / "inf").mkdir()
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / "inf" / name).write_bytes((folder / name).read_bytes())
    safetensors.numpy.save_file(values, tmp_path / "inf" / "model.safetensors")
    path = write(tmp_path / "inf.gguf", tmp_path / "inf", kind)
    with pytest.raises(ValueError, match=r"finite numbers: got inf in model.norm.weight of .*inf.gguf.*config.weights"):
        load_params(path, abstract_params(sizes))
    path = write(tmp_path / "other.gguf", folder, "gemma")
    with pytest.raises(ValueError, match=r"architecture must be llama or qwen2: got 'gemma' in .*config.weights"):
        load_model_config(path)
    (tmp_path / "cut.gguf").write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"cut.gguf must be a GGUF file: .*config.weights"):
        load_model_config(tmp_path / "cut.gguf")
    with pytest.raises(ValueError, match=r"weights must be a file: got .*gone.gguf"):
        load_model_config(tmp_path / "gone.gguf")


def test_without_the_package_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ValueError, match=r"read with the package gguf: pip install 'arft_jax\[gguf\]' .config.weights"):
        load_model_config(tmp_path / "model.gguf")
