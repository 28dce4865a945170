"""State dicts in both layouts, and every fault in one message."""

import numpy as np
import pytest
from flax import nnx

from arft_jax.io.weights import NAMES, params_from_hf
from arft_jax.testing.tiny_model import tiny_config, tiny_model


def _published(model, later: bool):
    """The model's parameters in the published layout: the inverse of the conversion, written apart."""
    prefixes = ("model.visual.", "model.language_model.") if later else ("visual.", "model.")
    tensors = {}
    for keys, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        path, value = ".".join(map(str, keys)), np.asarray(variable[...])
        stacked = "layers" in variable.get_metadata("axes")
        for layer, piece in enumerate(value if stacked else value[None]):
            name = NAMES[path].format(layer)
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
            tensors[name] = piece
    return tensors


def _params(model):
    return nnx.state(model, nnx.Param)


@pytest.mark.parametrize("later", [True, False], ids=["nested", "flat"])
@pytest.mark.parametrize("tied", [True, False])
def test_both_layouts_give_back_every_parameter(later, tied):
    source, target = (tiny_model(tiny_config(tied=tied), seed=seed) for seed in (0, 5))
    nnx.update(target, params_from_hf(_params(target), _published(source, later)))
    for (keys, ours), (_, theirs) in zip(
        nnx.to_flat_state(_params(target)), nnx.to_flat_state(_params(source)), strict=True
    ):
        np.testing.assert_array_equal(ours[...], theirs[...], err_msg=str(keys))
        assert ours.get_metadata("axes") == theirs.get_metadata("axes")


def test_an_abstract_model_is_enough():
    abstract = nnx.eval_shape(lambda: tiny_model())
    source = tiny_model(seed=3)
    params = params_from_hf(_params(abstract), _published(source, True))
    np.testing.assert_array_equal(params["text"]["embedding"][...], source.text.embedding[...])


def test_every_fault_is_told_at_once():
    model = tiny_model()
    tensors = _published(model, True)
    del tensors["model.language_model.layers.1.mlp.up_proj.weight"]
    tensors["model.visual.blocks.0.attn.qkv.bias"] = np.zeros(7, np.float32)
    tensors["model.extra.weight"] = np.zeros(1, np.float32)
    tensors["model.language_model.rotary_emb.inv_freq"] = np.zeros(1, np.float32)  # computed: ignored
    with pytest.raises(ValueError) as caught:
        params_from_hf(_params(model), tensors)
    message = str(caught.value)
    assert message.startswith("3 problems")
    assert "unassigned: text.layers.mlp.up.kernel needs text.layers.1.mlp.up_proj.weight" in message
    assert "shape clash: model.visual.blocks.0.attn.qkv.bias is (7,)" in message
    assert "unmapped: model.extra.weight" in message


def test_a_transposed_kernel_is_a_shape_clash():
    model = tiny_model()
    tensors = _published(model, True)
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    tensors[name] = tensors[name].T
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
